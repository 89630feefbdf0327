//! Time: moments, TTLs, expiries, and the clocks that they are measured by.

pub mod coarse_clock;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The longest TTL, 100 years. A longer one is shortened to it, so [`Duration::MAX`] is safe to
/// pass.
///
/// It does not mean "never"; [`Ttl::Never`] does.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A point in time of a [`Clock`]. Comparing moments of different clocks has no meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Moment(u64);

impl Moment {
    /// Returns the moment that is `nanos` nanoseconds after the origin of the clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the origin of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the moment that is later by `by`, at most 584 years after the origin of the clock.
    #[inline]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Returns the moment that is earlier by `by`, `None` if that is before the origin of the
    /// clock.
    pub fn minus(self, by: Duration) -> Option<Self> {
        u64::try_from(by.as_nanos()).ok().and_then(|by| self.0.checked_sub(by)).map(Self)
    }

    /// Returns the time since `earlier`, zero if that moment is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The time for which an entry is kept. No number stands for "never"; it is a variant of its own.
///
/// TTLs are ordered by length; [`Never`](Self::Never) is the greatest.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::{DelegateCache, Ttl};
/// use store_stretto::StrettoStore;
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> cache_core::Result<()> {
///     let users = DelegateCache::new(StrettoStore::new(10_000)?);
///     users.set("Ada", 42).await?;
///     assert_eq!(users.get_with_ttl("Ada").await?, Some((42, Ttl::Never)));
///
///     users.set_with_ttl("Bo", 43, Duration::from_secs(60)).await?;
///     match users.get_with_ttl("Bo").await? {
///         Some((_, Ttl::After(remaining))) => assert!(remaining <= Duration::from_secs(60)),
///         other => panic!("{other:?}"),
///     }
///     assert!(Ttl::from(Duration::MAX) < Ttl::Never);
///     Ok(())
/// }
/// ```
// The order of the variants is the order of the values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ttl {
    /// The entry expires after this time. A time above [`MAX_TTL`] is shortened to it.
    After(Duration),
    /// The entry does not expire.
    Never,
}

impl Ttl {
    /// Returns the time until the entry expires, `None` if it does not expire.
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
    /// The entry expires at this moment.
    At(Moment),
    /// The entry does not expire.
    Never,
}

impl Expiry {
    /// Returns the expiry of an entry that lives for `ttl` from `now` on.
    pub fn after(now: Moment, ttl: Ttl) -> Self {
        match ttl {
            Ttl::Never => Self::Never,
            Ttl::After(ttl) => Self::At(now.plus(ttl.min(MAX_TTL))),
        }
    }

    /// Returns `true` if the entry has expired at `now`.
    pub fn is_past(self, now: Moment) -> bool {
        match self {
            Self::Never => false,
            Self::At(deadline) => deadline <= now,
        }
    }

    /// Returns `true` if the entry has expired by this clock. Asks it nothing if the entry does not
    /// expire.
    #[inline]
    pub fn has_passed(self, clock: &dyn Clock) -> bool {
        match self {
            Self::Never => false,
            Self::At(deadline) => clock.has_reached(deadline),
        }
    }

    /// Returns the remaining time at `now`, zero if the entry has expired.
    pub fn remaining(self, now: Moment) -> Ttl {
        match self {
            Self::Never => Ttl::Never,
            Self::At(deadline) => Ttl::After(deadline.since(now)),
        }
    }
}

/// A source of the current time. The stores and the chain above them must use the same clock, or
/// clocks with the same origin.
///
/// # Examples
///
/// The wall clock, which counts the time for which the machine is suspended, and which stands still
/// here after it was set back:
///
/// ```
/// use std::{
///     sync::{
///         Arc,
///         atomic::{AtomicU64, Ordering},
///     },
///     time::{Duration, SystemTime},
/// };
///
/// use cache_core::{Clock, DelegateCache, Moment, SharedClock};
/// use store_stretto::StrettoStore;
///
/// #[derive(Debug, Default)]
/// struct WallClock {
///     latest: AtomicU64,
/// }
///
/// impl Clock for WallClock {
///     fn now(&self) -> Moment {
///         let now = Moment::from_nanos(0).plus(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
///         let latest = self.latest.fetch_max(now.as_nanos(), Ordering::Relaxed);
///         now.max(Moment::from_nanos(latest))
///     }
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> cache_core::Result<()> {
///     let clock: SharedClock = Arc::new(WallClock::default());
///     let store = StrettoStore::builder().capacity(10_000).clock(Arc::clone(&clock)).build()?;
///     let users = DelegateCache::new(store).with_clock(clock);
///     users.set_with_ttl(42, "Ada".to_owned(), Duration::from_secs(60)).await?;
///     assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
///     Ok(())
/// }
/// ```
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the current moment. It must not go back.
    fn now(&self) -> Moment;

    /// Returns `true` unless `moment` is still to come: `moment <= self.now()`, which is also what
    /// the default does. Every hit on an entry that expires asks this, so a clock that can tell it
    /// faster should.
    fn has_reached(&self, moment: Moment) -> bool {
        moment <= self.now()
    }
}

/// A clock that stores and chains share.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's monotonic clock, the default everywhere.
///
/// All instances in a process have the same origin. Stores read the clock only for entries that
/// expire.
///
/// The clock is [`Instant`]. On Linux (`CLOCK_MONOTONIC`) and macOS, the time for which the machine
/// is suspended does not count, so an entry in memory lives longer by that time. The standard
/// library does not specify this. If it matters, give the builders a [`Clock`] that counts this
/// time, for example one that reads `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// Returns this clock, to be shared.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        START.plus(start().1.elapsed())
    }

    /// Reads a coarse clock first, which takes a quarter of the time and is enough for a moment that
    /// is not near.
    #[inline]
    fn has_reached(&self, moment: Moment) -> bool {
        let coarse = coarse_clock::now().saturating_sub(start().0);
        moment <= START.plus(Duration::from_nanos(coarse)).plus(LAG) && moment <= self.now()
    }
}

/// The moment of the first use of the system's clock. The origin is before it, because an entry may
/// be older than the process that reads it.
const START: Moment = Moment(MAX_TTL.as_secs() * 1_000_000_000);

/// More than the coarse clock can differ from the precise one: at most 10 ms on Linux.
const LAG: Duration = Duration::from_millis(100);

/// The first use of the system's clock, by the coarse and by the precise clock. In this order: if the
/// thread is suspended in between, the coarse clock runs ahead, and the precise one is only asked
/// more often.
#[inline]
fn start() -> (u64, Instant) {
    static FIRST: OnceLock<(u64, Instant)> = OnceLock::new();
    *FIRST.get_or_init(|| (coarse_clock::now(), Instant::now()))
}

/// A clock for tests, which moves only when it is [advanced](Self::advance). A clone is the same
/// clock.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::{DelegateCache, ManualClock};
/// use store_stretto::StrettoStore;
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> cache_core::Result<()> {
///     let clock = ManualClock::new();
///     let store = StrettoStore::builder().capacity(10_000).clock(clock.shared()).build()?;
///     let users = DelegateCache::new(store).with_clock(clock.shared());
///
///     users.set_with_ttl(42, "Ada".to_owned(), Duration::from_secs(60)).await?;
///     clock.advance(Duration::from_secs(59));
///     assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
///     clock.advance(Duration::from_secs(1));
///     assert_eq!(users.get(42).await?, None);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Creates a clock at its origin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns this clock, to be shared.
    pub fn shared(&self) -> SharedClock {
        Arc::new(self.clone())
    }

    /// Moves the clock forward.
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
    fn the_coarse_clock_changes_no_life() {
        let clock = SystemClock;
        for delay in [0, 1, 20, 99, 101, 150].map(Duration::from_millis) {
            let moment = clock.now().plus(delay);
            while clock.now() < moment {
                // In this order, because the moment may come in between.
                let is_early = clock.has_reached(moment);
                assert!(!is_early || moment <= clock.now(), "{delay:?}");
            }
            assert!(clock.has_reached(moment), "{delay:?}");
        }
        assert!(!clock.has_reached(Moment::from_nanos(u64::MAX)) && clock.has_reached(Moment::from_nanos(0)));
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
