//! What the bytes under a key are.

use cache_core::{
    Ttl,
    backend::{Content, Description, Envelope, Life},
};

use crate::source::{Body, Found, Run};

/// What is stored under a key, without the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Examined {
    pub(crate) held: Held,
    pub(crate) state: State,
}

/// What the bytes under a key are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    /// A record. Its times are by the clock of the backend.
    Record(Box<Description>),
    /// A record that does not decode, and why.
    Undecodable(String),
    /// Something that this cache has not written, and what it is.
    Foreign(&'static str),
    /// A value without a record around it.
    Plain,
    /// The number of the last announcement by pub/sub.
    Counter,
}

/// Whether a reader would use the entry now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It would.
    Live,
    /// Only as a stale value.
    Stale,
    /// It has expired, and the backend has not removed it yet.
    Expired,
    /// It was written in another run of the server, or by a process that does not know the run.
    OtherRun,
    /// It expires, and was written more than a second after now. The clock was set back.
    Future,
    /// Readers take it for a miss.
    Unreadable,
}

/// How the run in which a record was written relates to that of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binding {
    Current,
    Other,
    /// The writer did not know the run, or trusts restarts.
    Unbound,
    /// The format has no epoch, or the run of the server is unknown.
    Unknown,
}

/// The largest number of milliseconds by which a record may be ahead of the clock of the backend.
const AHEAD_MILLIS: u64 = 1000;

/// The first bytes of a record.
const MAGIC: &[u8] = &Envelope::MAGIC;

/// Determines what the bytes under a key are.
pub(crate) fn examine(found: &Found, run: Run, is_plain: bool) -> Examined {
    let held = match &found.body {
        Body::Counter => Held::Counter,
        Body::OtherType => Held::Foreign("a list, a hash or another type that is no value"),
        _ if is_plain => Held::Plain,
        Body::TooLarge => Held::Foreign("more bytes than any record has"),
        Body::Marker(write_id) => {
            Held::Record(Box::new(Description::of_marker(*write_id, Life::new(found.written_at, None))))
        }
        Body::Bytes(bytes) => match Envelope::describe(&found.bound_to, bytes) {
            Ok(description) => Held::Record(Box::new(at(description, found.written_at))),
            Err(error) if bytes.starts_with(MAGIC) => Held::Undecodable(error.to_string()),
            Err(_) => Held::Foreign("bytes that are not a record"),
        },
    };
    let state = match &held {
        Held::Record(record) => state_of(record, found, run),
        Held::Plain | Held::Counter => State::Live,
        Held::Undecodable(_) | Held::Foreign(_) => State::Unreadable,
    };
    Examined { held, state }
}

/// Returns the record with times that do not count from `written_at`.
fn at(mut record: Description, written_at: u64) -> Description {
    let Life { created, expires, stale, .. } = &mut record.life;
    *created = created.saturating_add(written_at);
    for time in [expires, stale].into_iter().flatten() {
        *time = time.saturating_add(written_at);
    }
    record
}

fn state_of(record: &Description, found: &Found, run: Run) -> State {
    let Life { created, expires, stale, .. } = record.life;
    let has_end = expires.is_some() || stale.is_some();
    let is_past = |time: Option<u64>| time.is_some_and(|time| time <= found.now);
    if matches!(binding(record, run), Binding::Other | Binding::Unbound) {
        State::OtherRun
    } else if has_end && created > found.now.saturating_add(AHEAD_MILLIS) {
        State::Future
    } else if is_past(expires) || found.ttl.as_duration().is_some_and(|left| left.is_zero()) {
        State::Expired
    } else if is_past(stale) {
        State::Stale
    } else {
        State::Live
    }
}

/// Compares the run of a record with that of the server, `None` if the backend has no runs.
pub(crate) fn binding(record: &Description, run: Run) -> Binding {
    match (run, record.epoch) {
        (Run::Epoch(_), Some(0)) => Binding::Unbound,
        (Run::Epoch(run), Some(epoch)) if run == epoch => Binding::Current,
        (Run::Epoch(_), Some(_)) => Binding::Other,
        _ => Binding::Unknown,
    }
}

impl Held {
    /// Returns the record.
    pub(crate) fn record(&self) -> Option<&Description> {
        match self {
            Self::Record(record) => Some(record),
            _ => None,
        }
    }

    /// Returns the name of what it is.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Record(record) => match record.content {
                Content::Value => "value",
                Content::Absence => "absence",
                Content::Lease => "lease",
                Content::Claim => "claim",
                _ => "unknown",
            },
            Self::Undecodable(_) => "undecodable",
            Self::Foreign(_) => "foreign",
            Self::Plain => "plain",
            Self::Counter => "counter",
        }
    }

    /// Returns why it is no record, `None` if it is one or needs to be none.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Undecodable(reason) => Some(reason),
            Self::Foreign(reason) => Some(reason),
            _ => None,
        }
    }
}

impl State {
    pub(crate) const ALL: [Self; 6] =
        [Self::Live, Self::Stale, Self::Expired, Self::OtherRun, Self::Future, Self::Unreadable];

    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::OtherRun => "other_run",
            Self::Future => "future",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Binding {
    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Other => "other",
            Self::Unbound => "unbound",
            Self::Unknown => "unknown",
        }
    }
}

/// Returns the payload of what was found: the bytes that the codec has written.
pub(crate) fn payload<'a>(found: &'a Found, examined: &Examined) -> &'a [u8] {
    let Body::Bytes(bytes) = &found.body else { return &[] };
    match examined.held.record() {
        Some(record) => &bytes[bytes.len().saturating_sub(record.payload)..],
        None => bytes,
    }
}

/// Returns the milliseconds of a TTL, `None` if there is no end.
pub(crate) fn millis(ttl: Ttl) -> Option<u64> {
    ttl.as_duration().map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cache_core::{Ttl, backend};

    use super::*;

    const RUN: Run = Run::Epoch(7);

    fn found(record: Vec<u8>) -> Found {
        Found {
            key: b"k".to_vec(),
            bound_to: b"n:k".to_vec(),
            size: record.len() as u64,
            body: Body::Bytes(record),
            ttl: Ttl::After(Duration::from_secs(1)),
            now: 10_000,
            written_at: 0,
        }
    }

    fn lease(epoch: u32) -> Vec<u8> {
        Envelope::lease(backend::Binding::new(b"n:k", epoch), 5, 9_000)
    }

    #[test]
    fn the_run_decides_whether_a_record_counts() {
        for (epoch, run, state) in [
            (7, RUN, State::Live),
            (8, RUN, State::OtherRun),
            (0, RUN, State::OtherRun),
            (8, Run::Replica, State::Live),
            (8, Run::Denied, State::Live),
        ] {
            let examined = examine(&found(lease(epoch)), run, false);
            assert_eq!((examined.held.name(), examined.state), ("lease", state), "{epoch} {run:?}");
        }
    }

    #[test]
    fn corrupt_records_are_told_from_foreign_bytes() {
        let of = |bytes: Vec<u8>| examine(&found(bytes), RUN, false).held.name();
        let mut corrupt = lease(7);
        corrupt[20] ^= 1;
        assert_eq!(of(corrupt), "undecodable");
        assert_eq!(of(lease(7)[..20].to_vec()), "undecodable");
        assert_eq!(of(b"hello".to_vec()), "foreign");
        assert_eq!(of(Vec::new()), "foreign");
        assert_eq!(examine(&found(b"hello".to_vec()), RUN, true).held, Held::Plain);
    }

    #[test]
    fn times_decide_the_state() {
        let record = |created, expires, stale| {
            let mut record = Description::of_marker(1, Life::new(created, expires).stale_at(stale));
            record.epoch = Some(7);
            state_of(&record, &found(Vec::new()), RUN)
        };
        assert_eq!(record(9_000, Some(10_001), None), State::Live);
        assert_eq!(record(9_000, Some(10_000), None), State::Expired);
        assert_eq!(record(9_000, Some(10_001), Some(10_000)), State::Stale);
        assert_eq!(record(11_000, Some(12_000), None), State::Live);
        assert_eq!(record(11_001, Some(12_000), None), State::Future);
        assert_eq!(record(11_001, None, None), State::Live);
    }
}
