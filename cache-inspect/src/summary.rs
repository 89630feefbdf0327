//! The figures of a namespace.

use std::collections::BTreeMap;

use cache_core::backend::Content;

use crate::{
    examine::{Binding, Examined, Held, State, binding, millis},
    source::{Body, Found, Run},
};

/// The figures of some keys.
#[derive(Debug)]
pub(crate) struct Summary {
    run: Run,
    keeps_entries: bool,
    /// The number of keys by what they hold.
    pub(crate) contents: BTreeMap<&'static str, u64>,
    /// The number of keys by state.
    pub(crate) states: BTreeMap<&'static str, u64>,
    keys: u64,
    /// The stored bytes of each key that holds bytes.
    sizes: Vec<u64>,
    /// The number of keys by remaining time, see [`BUCKETS`].
    pub(crate) ttls: [u64; BUCKETS.len()],
    /// The number of keys that do not expire.
    pub(crate) without_ttl: u64,
    /// The numbers of values and absences.
    pub(crate) codecs: BTreeMap<u8, u64>,
    pub(crate) schemas: BTreeMap<u32, u64>,
    /// The number of records, markers included.
    pub(crate) versions: BTreeMap<u8, u64>,
    /// The number of records by the run in which they were written. Empty if the backend has no runs.
    pub(crate) bindings: BTreeMap<&'static str, u64>,
    pub(crate) oldest: Option<Written>,
    pub(crate) newest: Option<Written>,
    /// The markers.
    pub(crate) markers: Vec<Marker>,
    /// The keys, if they are to be listed.
    pub(crate) entries: Vec<Entry>,
}

/// The ends of the buckets for the remaining time, in milliseconds, and their names.
pub(crate) const BUCKETS: [(u64, &str); 7] = [
    (1, "expired"),
    (1_000, "below 1 s"),
    (60_000, "below 1 m"),
    (3_600_000, "below 1 h"),
    (86_400_000, "below 1 d"),
    (7 * 86_400_000, "below 7 d"),
    (u64::MAX, "7 d or more"),
];

/// When a value was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    pub(crate) key: Vec<u8>,
    /// In Unix milliseconds.
    pub(crate) at: u64,
    pub(crate) age_millis: u64,
}

/// The marker of a lease or a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Marker {
    pub(crate) key: Vec<u8>,
    pub(crate) name: &'static str,
    pub(crate) state: State,
    pub(crate) age_millis: u64,
    /// `None` if it does not expire.
    pub(crate) ttl_millis: Option<u64>,
}

/// A key in the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) name: &'static str,
    pub(crate) state: State,
    pub(crate) size: u64,
    /// `None` if it does not expire.
    pub(crate) ttl_millis: Option<u64>,
}

/// The sizes of the keys, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sizes {
    pub(crate) min: u64,
    pub(crate) median: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
    pub(crate) total: u64,
}

impl Summary {
    /// Creates the figures of no keys.
    pub(crate) fn new(run: Run, keeps_entries: bool) -> Self {
        Self {
            run,
            keeps_entries,
            contents: BTreeMap::new(),
            states: BTreeMap::new(),
            keys: 0,
            sizes: Vec::new(),
            ttls: [0; BUCKETS.len()],
            without_ttl: 0,
            codecs: BTreeMap::new(),
            schemas: BTreeMap::new(),
            versions: BTreeMap::new(),
            bindings: BTreeMap::new(),
            oldest: None,
            newest: None,
            markers: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Returns the number of keys.
    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    /// Adds a key.
    pub(crate) fn add(&mut self, found: &Found, examined: Examined) {
        let Examined { held, state } = examined;
        *self.contents.entry(held.name()).or_default() += 1;
        *self.states.entry(state.name()).or_default() += 1;
        self.keys += 1;
        if found.body != Body::OtherType {
            self.sizes.push(found.size);
        }
        let ttl_millis = millis(found.ttl);
        match ttl_millis {
            Some(left) => self.ttls[BUCKETS.iter().take_while(|(end, _)| left >= *end).count().min(6)] += 1,
            None => self.without_ttl += 1,
        }
        if self.keeps_entries {
            let (key, name, size) = (found.key.clone(), held.name(), found.size);
            self.entries.push(Entry { key, name, state, size, ttl_millis });
        }
        self.add_record(found, &held, state);
    }

    fn add_record(&mut self, found: &Found, held: &Held, state: State) {
        let Some(record) = held.record() else { return };
        if self.run != Run::Irrelevant {
            *self.bindings.entry(binding(record, self.run).name()).or_default() += 1;
        }
        *self.versions.entry(record.version).or_default() += 1;
        let (at, key) = (record.life.created, found.key.clone());
        let age_millis = found.now.saturating_sub(at);
        if matches!(record.content, Content::Value | Content::Absence) {
            *self.codecs.entry(record.codec).or_default() += 1;
            *self.schemas.entry(record.schema).or_default() += 1;
            let written = Written { key, at, age_millis };
            if self.oldest.as_ref().is_none_or(|oldest| at < oldest.at) {
                self.oldest = Some(written.clone());
            }
            if self.newest.as_ref().is_none_or(|newest| at > newest.at) {
                self.newest = Some(written);
            }
        } else {
            let (name, ttl_millis) = (held.name(), millis(found.ttl));
            self.markers.push(Marker { key, name, state, age_millis, ttl_millis });
        }
    }

    /// Returns the number of records that were written in another run of the server, or without
    /// knowing it. `None` if it cannot be told.
    pub(crate) fn of_other_runs(&self) -> Option<u64> {
        let count = |binding: Binding| self.bindings.get(binding.name()).copied().unwrap_or(0);
        matches!(self.run, Run::Epoch(_)).then(|| count(Binding::Other) + count(Binding::Unbound))
    }

    /// Returns the sizes, `None` without keys.
    pub(crate) fn sizes(&self) -> Option<Sizes> {
        let mut sizes = self.sizes.clone();
        sizes.sort_unstable();
        // The smallest size that at least so many percent of the keys do not exceed.
        let percentile = |percent: usize| sizes.get((sizes.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Sizes {
            min: *sizes.first()?,
            median: percentile(50)?,
            p99: percentile(99)?,
            max: *sizes.last()?,
            total: sizes.iter().sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cache_core::Ttl;

    use super::*;

    fn added(keys: &[(u64, Ttl)]) -> Summary {
        let mut summary = Summary::new(Run::Irrelevant, false);
        for &(size, ttl) in keys {
            let (key, bound_to, body) = (Vec::new(), Vec::new(), Body::TooLarge);
            let found = Found { key, bound_to, body, size, ttl, now: 0, written_at: 0 };
            summary.add(&found, Examined { held: Held::Plain, state: State::Live });
        }
        summary
    }

    #[test]
    fn percentiles_are_sizes_of_keys() {
        let sizes = |count: u64| added(&(1..=count).map(|size| (size, Ttl::Never)).collect::<Vec<_>>()).sizes();
        assert_eq!(sizes(0), None);
        assert_eq!(sizes(1), Some(Sizes { min: 1, median: 1, p99: 1, max: 1, total: 1 }));
        assert_eq!(sizes(100), Some(Sizes { min: 1, median: 50, p99: 99, max: 100, total: 5050 }));
        assert_eq!(sizes(201).map(|sizes| (sizes.median, sizes.p99)), Some((101, 199)));
    }

    #[test]
    fn each_ttl_is_in_one_bucket() {
        let left = [0, 1, 999, 1_000, 59_999, 60_000, 3_600_000, 86_400_000, 7 * 86_400_000, u64::MAX];
        let mut keys: Vec<(u64, Ttl)> =
            left.into_iter().map(|left| (1, Ttl::After(Duration::from_millis(left)))).collect();
        keys.push((1, Ttl::Never));
        let summary = added(&keys);
        assert_eq!((summary.ttls, summary.without_ttl), ([1, 2, 2, 1, 1, 1, 2], 1));
    }
}
