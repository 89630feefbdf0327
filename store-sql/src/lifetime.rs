//! For how long an entry is written.

use cache_core::{Entry, Moment, Ttl};

/// For how long an entry is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lifetime {
    /// So many milliseconds, `None` if it does not expire.
    Millis(Option<u64>),
    /// It has expired.
    Over,
}

impl Lifetime {
    /// What remains of the entry in whole milliseconds, rounded down and at least `least`.
    pub(crate) fn of<V>(entry: &Entry<V>, now: Moment, least: u64) -> Self {
        match entry.remaining(now) {
            Ttl::Never => Self::Millis(None),
            Ttl::After(ttl) if ttl.is_zero() => Self::Over,
            Ttl::After(ttl) => match u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(least) {
                0 => Self::Over,
                millis => Self::Millis(Some(millis)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cache_core::{Expiry, MAX_TTL};

    use super::*;

    #[test]
    fn lives_are_cut_to_milliseconds_and_never_to_none() {
        let now = Moment::from_nanos(7);
        let of = |ttl, least| Lifetime::of(&Entry::new((), Expiry::after(now, ttl)), now, least);
        let millis = |millis| Lifetime::Millis(Some(millis));
        assert_eq!(of(Ttl::Never, 1), Lifetime::Millis(None));
        assert_eq!(of(Ttl::After(Duration::from_micros(1_999)), 1), millis(1));
        assert_eq!(of(Ttl::After(Duration::MAX), 1), millis(u64::try_from(MAX_TTL.as_millis()).unwrap()));
        // Below a millisecond a write lives for one, and a fill not at all: it must not lengthen a life.
        assert_eq!(of(Ttl::After(Duration::from_nanos(1)), 1), millis(1));
        assert_eq!(of(Ttl::After(Duration::from_nanos(1)), 0), Lifetime::Over);
        assert_eq!(of(Ttl::After(Duration::ZERO), 1), Lifetime::Over);
    }
}
