//! Idle expiry, for stores in memory.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::Moment;

/// The moment from which an entry in memory is idle: its last read or its write, plus the time to
/// idle of the store.
///
/// A store keeps one beside each entry, and serves the entry only while neither this deadline nor
/// the entry's own expiry is past. A read moves the deadline of this entry and locks nothing.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::{Moment, backend::IdleDeadline};
///
/// let at = |second: u64| Moment::from_nanos(second * 1_000_000_000);
/// let time_to_idle = Duration::from_secs(60);
/// let deadline = IdleDeadline::new(at(0), Some(time_to_idle));
/// deadline.extend(at(59), time_to_idle);
/// assert!(!deadline.is_past(at(118)));
/// assert!(deadline.is_past(at(119)));
/// ```
#[derive(Debug)]
pub struct IdleDeadline(AtomicU64);

impl IdleDeadline {
    const NEVER: u64 = u64::MAX;

    /// Creates the deadline of an entry that is written at `now`. Without a time to idle it is
    /// never past.
    pub fn new(now: Moment, time_to_idle: Option<Duration>) -> Self {
        Self(AtomicU64::new(time_to_idle.map_or(Self::NEVER, |time_to_idle| now.plus(time_to_idle).as_nanos())))
    }

    /// Returns `true` if the entry is idle at `now`.
    #[inline]
    pub fn is_past(&self, now: Moment) -> bool {
        let deadline = self.0.load(Ordering::Relaxed);
        deadline != Self::NEVER && deadline <= now.as_nanos()
    }

    /// Moves the deadline because the entry is read at `now`. Never moves it back, so concurrent
    /// readers may pass their moments in any order.
    ///
    /// A deadline that is past must not be moved: the entry has expired.
    #[inline]
    pub fn extend(&self, now: Moment, time_to_idle: Duration) {
        self.0.fetch_max(now.plus(time_to_idle).as_nanos(), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    const TIME_TO_IDLE: Duration = Duration::from_secs(10);

    fn at(second: u64) -> Moment {
        Moment::from_nanos(second * 1_000_000_000)
    }

    #[test]
    fn the_time_counts_from_the_last_read() {
        let deadline = IdleDeadline::new(at(100), Some(TIME_TO_IDLE));
        assert!(!deadline.is_past(Moment::from_nanos(109_999_999_999)) && deadline.is_past(at(110)));
        deadline.extend(at(105), TIME_TO_IDLE);
        assert!(!deadline.is_past(at(114)) && deadline.is_past(at(115)));
    }

    #[test]
    fn a_read_that_comes_late_moves_nothing_back() {
        let deadline = IdleDeadline::new(at(100), Some(TIME_TO_IDLE));
        for read in [108, 104, 107] {
            deadline.extend(at(read), TIME_TO_IDLE);
            assert!(!deadline.is_past(at(117)) && deadline.is_past(at(118)), "{read}");
        }
    }

    #[test]
    fn without_a_time_to_idle_it_is_never_past_and_the_longest_does_not_overflow() {
        for deadline in [IdleDeadline::new(at(0), None), IdleDeadline::new(at(1), Some(Duration::MAX))] {
            assert!(!deadline.is_past(Moment::from_nanos(u64::MAX)));
        }
        let deadline = IdleDeadline::new(at(0), Some(TIME_TO_IDLE));
        deadline.extend(at(1), Duration::MAX);
        assert!(!deadline.is_past(Moment::from_nanos(u64::MAX)));
    }
}
