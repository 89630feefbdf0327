//! The life of a record, and how an entry becomes one and is one again.

use std::time::Duration;

use crate::{Entry, Expiry, Moment, Ttl};

/// When a record was written, when it expires and what else its entry says besides the value, in
/// milliseconds by the clock of the store that keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Life {
    /// When it was written.
    pub created: u64,
    /// When it expires, `None` if it does not.
    pub expires: Option<u64>,
    /// When it turns stale, `None` if it does not before it expires.
    pub stale: Option<u64>,
    /// How long it took to load.
    pub load_millis: u32,
    /// How old the entry was when it was written here, `None` if nobody knew, or if it was older
    /// than 49 days.
    pub age_millis: Option<u32>,
}

impl Life {
    /// The life of a record whose entry was made when it was written, and does not turn stale.
    pub const fn new(created: u64, expires: Option<u64>) -> Self {
        Self { created, expires, stale: None, load_millis: 0, age_millis: Some(0) }
    }

    /// Sets when it turns stale.
    pub const fn stale_at(mut self, stale: Option<u64>) -> Self {
        self.stale = stale;
        self
    }

    /// Sets how long it took to load.
    pub const fn load_millis(mut self, millis: u32) -> Self {
        self.load_millis = millis;
        self
    }

    /// Sets how old the entry was when it was written.
    pub const fn age_millis(mut self, millis: Option<u32>) -> Self {
        self.age_millis = millis;
        self
    }

    /// The life of an entry that is set at `now`, which is `created` in *micro*seconds by the
    /// store's clock, or somewhat later there. `None` if the entry has expired.
    ///
    /// What remains is rounded down to whole milliseconds, but to no less than one: a set must not
    /// become nothing. The age is rounded up; an entry that does not say when it was made is made
    /// now.
    pub fn of_set<V>(entry: &Entry<V>, now: Moment, created: u64) -> Option<Self> {
        let mut life = Self::of(entry, now, created, 1)?;
        if entry.created().is_none() {
            life.age_millis = Some(0);
        }
        Some(life)
    }

    /// The same for an entry that fills: `None` also if less than a millisecond remains, since no
    /// life may become longer. Where the entry does not say when it was made, nobody knows.
    pub fn of_fill<V>(entry: &Entry<V>, now: Moment, created: u64) -> Option<Self> {
        Self::of(entry, now, created, 0)
    }

    fn of<V>(entry: &Entry<V>, now: Moment, created: u64, least: u64) -> Option<Self> {
        let (created, part) = (created / 1000, created % 1000);
        let millis = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let expires = match entry.remaining(now) {
            Ttl::Never => None,
            Ttl::After(ttl) if ttl.is_zero() => return None,
            Ttl::After(ttl) => match millis(ttl).max(least) {
                0 => return None,
                left => Some(created.saturating_add(left)),
            },
        };
        let stale = match entry.stale_at() {
            at if at == entry.expiry() => None,
            at => at.remaining(now).as_duration().map(|ttl| created.saturating_add(millis(ttl))),
        };
        // The record begins with a whole millisecond: by so much it looks older anyway.
        let age = |made: Moment| {
            let age = now.since(made).saturating_sub(Duration::from_micros(part));
            u32::try_from(age.as_nanos().div_ceil(1_000_000)).ok()
        };
        Some(Self {
            created,
            expires,
            stale,
            load_millis: u32::try_from(entry.load_time().as_millis()).unwrap_or(u32::MAX),
            age_millis: entry.created().and_then(age),
        })
    }

    /// The entry of this life, which was asked for at `asked`, when the store's clock showed
    /// `store_now` at the latest.
    ///
    /// It may have expired. It looks no younger than it is.
    pub fn entry<V>(self, value: Option<V>, asked: Moment, store_now: u64) -> Entry<V> {
        let after = |left: Option<Duration>| Expiry::after(asked, left.map_or(Ttl::Never, Ttl::After));
        let expiry = after(self.remaining(store_now));
        let mut entry = value.map_or_else(|| Entry::absent(expiry), |value| Entry::new(value, expiry));
        entry = entry.fresh_until(match self.stale {
            // It was stale before `asked`, too.
            Some(stale) if stale <= store_now => {
                let ago = Duration::from_millis(store_now - stale);
                Expiry::At(asked.minus(ago).unwrap_or(Moment::from_nanos(0)))
            }
            _ => after(self.fresh(store_now)),
        });
        entry = entry.loaded_in(Duration::from_millis(self.load_millis.into()));
        let age = self.age_millis.map(|age| store_now.saturating_sub(self.created).saturating_add(age.into()));
        match age.and_then(|age| asked.minus(Duration::from_millis(age))) {
            Some(made) => entry.created_at(made),
            None => entry,
        }
    }

    /// How long it lives from when it was written, in milliseconds; `None` if it does not expire.
    pub fn ttl_millis(self) -> Option<u64> {
        self.expires.map(|expires| expires.saturating_sub(self.created))
    }

    /// How long it stays fresh at `now`, `None` if it does not turn stale; never longer than was
    /// written.
    pub fn fresh(self, now: u64) -> Option<Duration> {
        Self { expires: self.stale, ..self }.remaining(now)
    }

    /// Returns the remaining time at `now`, `None` if it does not expire, and zero once it has. It
    /// is never more than the TTL that was written, however the clocks of writer and reader differ.
    pub fn remaining(self, now: u64) -> Option<Duration> {
        let left = self.expires?.saturating_sub(now);
        self.ttl_millis().map(|written| Duration::from_millis(left.min(written)))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::MAX_TTL;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(micros: u64) -> Moment {
        Moment::from_nanos(0).plus(HOUR).plus(Duration::from_micros(micros))
    }

    fn millis(of: u64) -> Duration {
        Duration::from_millis(of)
    }

    #[test]
    fn lives_are_cut_to_milliseconds_and_never_to_none() {
        let of = |ttl, least| Life::of(&Entry::new((), Expiry::after(at(7), ttl)), at(7), 5_000_999, least);
        let left = |life: Option<Life>| life.map(Life::ttl_millis);
        assert_eq!(left(of(Ttl::Never, 1)), Some(None));
        assert_eq!(left(of(Ttl::After(Duration::from_micros(1_999)), 1)), Some(Some(1)));
        assert_eq!(of(Ttl::After(Duration::from_micros(1_999)), 1).unwrap().expires, Some(5_001));
        let most = u64::try_from(MAX_TTL.as_millis()).unwrap();
        assert_eq!(left(of(Ttl::After(Duration::MAX), 1)), Some(Some(most)));
        // Below a millisecond a write lives for one, and a fill not at all: it must not lengthen a
        // life.
        assert_eq!(left(of(Ttl::After(Duration::from_nanos(1)), 1)), Some(Some(1)));
        assert_eq!(of(Ttl::After(Duration::from_nanos(1)), 0), None);
        assert_eq!(of(Ttl::After(Duration::ZERO), 1), None);
    }

    #[test]
    fn what_an_entry_says_comes_back_and_never_better_than_it_was() {
        let entry = Entry::new("v", Expiry::At(at(60_000_900)))
            .fresh_until(Expiry::At(at(30_000_900)))
            .created_at(at(0))
            .loaded_in(millis(250));
        let life = Life::of_fill(&entry, at(1_000_500), 9_000_000_400).unwrap();
        assert_eq!((life.created, life.expires, life.stale), (9_000_000, Some(9_059_000), Some(9_029_000)));
        // 1000.5 ms, of which 0.4 are in the rounding of the record's beginning.
        assert_eq!((life.load_millis, life.age_millis), (250, Some(1_001)));
        // Two seconds later, asked for by another whose clock has another origin.
        let back = life.entry(Some("v"), at(500), 9_002_001);
        assert_eq!(back.expiry(), Expiry::At(at(56_999_500)));
        assert_eq!(back.stale_at(), Expiry::At(at(26_999_500)));
        assert_eq!(
            back.created(),
            Some(Moment::from_nanos(0).plus(HOUR).plus(Duration::from_micros(500)).minus(millis(3_002)).unwrap())
        );
        assert_eq!((back.load_time(), back.value()), (millis(250), Some(&"v")));
        // A clock that was set back lengthens nothing.
        let back = life.entry(Some("v"), at(0), 8_000_000);
        assert_eq!(back.remaining(at(0)), Ttl::After(millis(59_000)));
        assert_eq!(back.stale_at().remaining(at(0)), Ttl::After(millis(29_000)));
        assert_eq!(at(0).since(back.created().unwrap()), millis(1_001));
    }

    #[test]
    fn a_stale_entry_tells_since_when_it_is_stale() {
        let life = Life::new(9_000_000, Some(9_060_000)).stale_at(Some(9_030_000));
        let stale_at = |store_now| life.entry(Some(()), at(50_000_000), store_now).stale_at();
        assert_eq!(stale_at(9_029_000), Expiry::At(at(51_000_000)));
        assert_eq!(stale_at(9_030_000), Expiry::At(at(50_000_000)));
        assert_eq!(stale_at(9_040_000), Expiry::At(at(40_000_000)));
        // Before the clock's origin.
        assert_eq!(stale_at(u64::MAX), Expiry::At(Moment::from_nanos(0)));
    }

    #[test]
    fn an_entry_that_says_little_needs_nothing_of_version_2() {
        let plain = Entry::new((), Expiry::At(at(60_000_000)));
        // Made within the millisecond in which the record begins.
        let life = Life::of_fill(&plain.clone().created_at(at(0)), at(300), 5_000_400).unwrap();
        assert_eq!(life, Life::new(5_000, Some(5_000 + 59_999)));
        assert_eq!(life.entry(Some(()), at(0), 5_000).stale_at(), Expiry::At(at(59_999_000)));
        assert_eq!(Life::of_set(&plain, at(0), 0).unwrap().age_millis, Some(0));
        assert_eq!(Life::of_fill(&plain, at(0), 0).unwrap().age_millis, None);
        let stale = plain.clone().fresh_until(Expiry::At(at(10)));
        assert_eq!(Life::of_set(&stale, at(20), 1_000_000).unwrap().stale, Some(1_000), "stale when it was written");
    }

    #[test]
    fn an_age_that_cannot_be_told_is_unknown_and_not_a_shorter_one() {
        let entry = Entry::new((), Expiry::Never).created_at(Moment::from_nanos(0));
        let days = |days: u64| Moment::from_nanos(0).plus(Duration::from_secs(days * 86_400));
        assert_eq!(Life::of_set(&entry, days(49), 0).unwrap().age_millis, Some(49 * 86_400_000));
        assert_eq!(Life::of_set(&entry, days(50), 0).unwrap().age_millis, None);
        let life = Life { age_millis: None, ..Life::new(0, None) };
        assert_eq!(life.entry(Some(()), days(1), 5).created(), None);
        // Made before the clock's origin.
        assert_eq!(Life::new(0, None).entry(Some(()), at(0), 3_600_001).created(), None);
        assert_eq!(Life::new(0, None).entry(Some(()), at(0), 3_600_000).created(), Some(Moment::from_nanos(0)));
    }

    #[test]
    fn that_there_is_no_value_comes_back() {
        let entry = Life::new(0, Some(10)).entry(None::<()>, at(0), 4);
        assert!(entry.is_absent());
        assert_eq!(entry.expiry(), Expiry::At(at(6_000)));
    }
}
