//! Time: a monotonic line of moments, lives along it, and clocks that read it.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The longest life that is counted, 100 years. A longer TTL is cut to it, so [`Duration::MAX`] is
/// safe to pass.
///
/// It is not "never": pass [`Ttl::Never`] for that.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A point on a [`Clock`]'s line. Moments of different clocks do not compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Moment(u64);

impl Moment {
    /// The moment `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `by` later; the end of the line (in 584 years) if that lies beyond.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The moment `by` earlier, `None` if that lies before the clock's origin.
    pub fn minus(self, by: Duration) -> Option<Self> {
        u64::try_from(by.as_nanos()).ok().and_then(|by| self.0.checked_sub(by)).map(Self)
    }

    /// How much later this moment is than `earlier`; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// How long something lives. "Never" is a case of its own; no number stands for it.
///
/// TTLs are ordered by length; [`Never`](Self::Never) is the greatest.
// The order of the variants is the order of the values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ttl {
    /// It expires after this time. At most [`MAX_TTL`] is counted.
    After(Duration),
    /// It does not expire.
    Never,
}

impl Ttl {
    /// The time until it expires, `None` if it does not.
    pub fn as_duration(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::After(ttl) => Some(ttl),
        }
    }
}

impl From<Duration> for Ttl {
    fn from(ttl: Duration) -> Self {
        Self::After(ttl)
    }
}

/// When an entry expires.
///
/// Expiries are ordered by time; [`Never`](Self::Never) is the greatest.
// The order of the variants is the order of the values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Expiry {
    /// From this moment on it is gone.
    At(Moment),
    /// It does not.
    Never,
}

impl Expiry {
    /// The expiry of what lives for `ttl` from `now` on.
    pub fn after(now: Moment, ttl: Ttl) -> Self {
        match ttl {
            Ttl::Never => Self::Never,
            Ttl::After(ttl) => Self::At(now.plus(ttl.min(MAX_TTL))),
        }
    }

    /// Whether it has come.
    pub fn is_past(self, now: Moment) -> bool {
        match self {
            Self::Never => false,
            Self::At(deadline) => deadline <= now,
        }
    }

    /// Returns the remaining time, zero once it has passed.
    pub fn remaining(self, now: Moment) -> Ttl {
        match self {
            Self::Never => Ttl::Never,
            Self::At(deadline) => Ttl::After(deadline.since(now)),
        }
    }
}

/// Tells the time. Stores and the chain above them must share one clock, or clocks on the same
/// line.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present moment; it never goes back.
    fn now(&self) -> Moment;
}

/// A clock that several parts share.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's monotonic clock, the default everywhere.
///
/// All of a process read the same line. Stores read it only for entries that expire.
///
/// It is [`Instant`]. On Linux (`CLOCK_MONOTONIC`) and macOS, the time for which the machine is
/// suspended does not count, so an entry in memory lives longer by it; the standard library
/// specifies neither. If that matters, give the builders a [`Clock`] that counts it, for example
/// one that reads `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// This clock, to share.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = START.get_or_init(Instant::now);
        // The origin lies before the process began, since an entry may be older than the process
        // that reads it.
        Moment(0).plus(MAX_TTL).plus(start.elapsed())
    }
}

/// A clock that stands still until it is told to move, for tests. A clone is the same clock.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock at its origin.
    pub fn new() -> Self {
        Self::default()
    }

    /// This clock, to share.
    pub fn shared(&self) -> SharedClock {
        Arc::new(self.clone())
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(now.saturating_add(nanos)));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        Moment(self.0.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_duration_is_a_hundred_years_and_not_never() {
        let now = SystemClock.now();
        let expiry = Expiry::after(now, Ttl::After(Duration::MAX));
        assert_eq!(expiry.remaining(now), Ttl::After(MAX_TTL));
        assert_eq!(Expiry::after(now, Ttl::Never).remaining(now), Ttl::Never);
    }

    #[test]
    fn never_is_the_greatest() {
        let mut ttls = [Ttl::Never, Ttl::After(Duration::MAX), Ttl::After(Duration::ZERO)];
        ttls.sort();
        assert_eq!(ttls, [Ttl::After(Duration::ZERO), Ttl::After(Duration::MAX), Ttl::Never]);
        let (early, late) = (Expiry::At(Moment(0)), Expiry::At(Moment(u64::MAX)));
        assert_eq!([Expiry::Never, late, early].into_iter().max(), Some(Expiry::Never));
        assert!(early < late && Expiry::Never.min(late) == late);
    }

    #[test]
    fn an_entry_is_gone_at_its_deadline_and_not_before() {
        let clock = ManualClock::new();
        let expiry = Expiry::after(clock.now(), Ttl::After(Duration::from_millis(1)));
        clock.advance(Duration::from_nanos(999_999));
        assert!(!expiry.is_past(clock.now()));
        assert_eq!(expiry.remaining(clock.now()), Ttl::After(Duration::from_nanos(1)));
        clock.advance(Duration::from_nanos(1));
        assert!(expiry.is_past(clock.now()));
        assert_eq!(expiry.remaining(clock.now()), Ttl::After(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn no_path_lengthens_a_life(ttl in any::<Duration>(), cap in any::<Duration>(), start in any::<u64>()) {
            let now = Moment(start);
            let expiry = Expiry::after(now, Ttl::After(ttl).min(Ttl::After(cap)));
            let Ttl::After(remaining) = expiry.remaining(now) else { panic!("a TTL became never") };
            prop_assert!(remaining <= ttl && remaining <= cap && remaining <= MAX_TTL);
        }
    }
}
