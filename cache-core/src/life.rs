//! The life of a record, and its conversion from and into an entry.

use std::time::Duration;

use crate::{Entry, Expiry, Moment, Ttl};

/// The times of a record: its writing, its expiry, and other metadata of the entry. They are in
/// milliseconds by the clock of the store that keeps the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Life {
    /// When the record was written.
    pub created: u64,
    /// When the entry expires, `None` if it does not.
    pub expires: Option<u64>,
    /// When the entry turns stale, `None` if it does not turn stale before it expires.
    pub stale: Option<u64>,
    /// The duration of the load.
    pub load_millis: u32,
    /// The age of the entry when the record was written, `None` if it was unknown or more than 49
    /// days.
    pub age_millis: Option<u32>,
}

impl Life {
    /// Creates the life of a record whose entry was created when the record was written, and does
    /// not turn stale.
    pub const fn new(created: u64, expires: Option<u64>) -> Self {
        Self { created, expires, stale: None, load_millis: 0, age_millis: Some(0) }
    }

    /// Sets when the entry turns stale.
    pub const fn stale_at(mut self, stale: Option<u64>) -> Self {
        self.stale = stale;
        self
    }

    /// Sets the duration of the load.
    pub const fn load_millis(mut self, millis: u32) -> Self {
        self.load_millis = millis;
        self
    }

    /// Sets the age of the entry when the record was written.
    pub const fn age_millis(mut self, millis: Option<u32>) -> Self {
        self.age_millis = millis;
        self
    }

    /// Returns the life of an entry that is set at `now`, `None` if the entry has expired. At that
    /// moment, the clock of the store shows `created`, in Unix *micro*seconds, or a later time.
    ///
    /// The remaining time is rounded down to whole milliseconds, but to no less than one: an entry
    /// that is set must not expire at once. The age is rounded up. An entry without a creation time
    /// counts as created now.
    pub fn of_set<V>(entry: &Entry<V>, now: Moment, created: u64) -> Option<Self> {
        let mut life = Self::of(entry, now, created, 1)?;
        if entry.created().is_none() {
            life.age_millis = Some(0);
        }
        Some(life)
    }

    /// Returns the life of an entry that is filled, as [`of_set`](Self::of_set). Returns `None`
    /// also if less than a millisecond remains, because a fill must not lengthen a life. The age of
    /// an entry without a creation time is unknown.
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
        // The creation of the record is rounded down to a whole millisecond, so the entry looks
        // older by this part anyway.
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

    /// Returns the entry with this life, which was requested at `asked`. At that moment, the clock
    /// of the store showed `store_now` or an earlier time.
    ///
    /// The entry may have expired. It does not look younger than it is.
    pub fn entry<V>(self, value: Option<V>, asked: Moment, store_now: u64) -> Entry<V> {
        let after = |left: Option<Duration>| Expiry::after(asked, left.map_or(Ttl::Never, Ttl::After));
        let expiry = after(self.remaining(store_now));
        let mut entry = value.map_or_else(|| Entry::absent(expiry), |value| Entry::new(value, expiry));
        entry = entry.fresh_until(match self.stale {
            // The entry was stale before `asked` as well.
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

    /// Returns the TTL from the writing of the record on, in milliseconds, `None` if the entry does
    /// not expire.
    pub fn ttl_millis(self) -> Option<u64> {
        self.expires.map(|expires| expires.saturating_sub(self.created))
    }

    /// Returns the time for which the entry stays fresh at `now`, `None` if it does not turn stale.
    /// It is never more than when the record was written.
    pub fn fresh(self, now: u64) -> Option<Duration> {
        Self { expires: self.stale, ..self }.remaining(now)
    }

    /// Returns the remaining time at `now`: `None` if the entry does not expire, zero if it has. It
    /// is never more than the TTL in the record, even if the clocks of writer and reader differ.
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
