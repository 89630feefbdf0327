//! How a chain reads through to a loader: the settings.

use std::time::Duration;

use cache_core::{Error, ErrorKind, Result, Ttl};

/// How a chain reads through to a loader; see [`ChainCache::get_or_load`](crate::ChainCache::get_or_load).
///
/// The defaults are for production. What changes what a caller may be served (stale values, early refresh) is off until it is
/// asked for.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cache_chain::{ChainCache, ReadThrough};
/// use cache_core::testkit::MapStore;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let users: ChainCache<String> = ChainCache::builder()
///     .tier(MapStore::new())
///     .default_ttl(Duration::from_secs(60))
///     .read_through(ReadThrough::new().stale_for(Duration::from_secs(3600)).early_refresh(1.0))
///     .build()?;
/// # Ok::<(), cache_chain::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ReadThrough {
    pub(crate) absent_ttl: Duration,
    pub(crate) stale_for: Duration,
    pub(crate) early_refresh: f64,
    pub(crate) failure_pause: Duration,
    pub(crate) soft_timeout: Duration,
    pub(crate) hard_timeout: Duration,
    pub(crate) concurrent_loads: usize,
    pub(crate) patience: Duration,
}

impl Default for ReadThrough {
    fn default() -> Self {
        Self {
            absent_ttl: Duration::from_secs(5),
            stale_for: Duration::ZERO,
            early_refresh: 0.0,
            failure_pause: Duration::from_secs(1),
            soft_timeout: Duration::from_secs(10),
            hard_timeout: Duration::from_secs(30),
            concurrent_loads: 256,
            patience: Duration::from_secs(2),
        }
    }
}

impl ReadThrough {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long it is remembered that a loader found nothing, unless it says so itself. Default 5 s: long enough to hold off a
    /// storm of requests for what is not there, short enough that nobody waits for what has just been created.
    ///
    /// A [`default_ttl`](crate::ChainBuilder::default_ttl) that is shorter bounds it.
    pub fn absent_ttl(mut self, ttl: Duration) -> Self {
        self.absent_ttl = ttl;
        self
    }

    /// How long past its TTL a value may be served *stale* by `get_or_load`, while it is being loaded anew or cannot be. It is
    /// the `stale-while-revalidate` and `stale-if-error` of RFC 5861. Default: not at all.
    ///
    /// The TTL is the soft deadline then, and the TTL plus this the hard one, past which nothing is served. `get` and the like
    /// serve nothing stale. It applies to what is set or loaded with a TTL while this is in force.
    pub fn stale_for(mut self, time: Duration) -> Self {
        self.stale_for = time;
        self
    }

    /// Loads a value anew before it expires, now and then: at a hit, with a chance that grows towards the end and with the
    /// time that the last load took. It is `XFetch` of "Optimal Probabilistic Cache Stampede Prevention" (VLDB 2015);
    /// `beta` is its factor, and 1 is the optimum there. Larger is earlier. Default 0: never early.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.early_refresh = beta;
        self
    }

    /// How long after a failed refresh the stale value is served before the next attempt. Default 1 s: an origin that is
    /// struggling gets one attempt per key and second.
    pub fn failure_pause(mut self, pause: Duration) -> Self {
        self.failure_pause = pause;
        self
    }

    /// How long a caller waits for a load, be it its own or another's. Then it gets an error of kind
    /// [`Timeout`](ErrorKind::Timeout), and the load goes on in the background for those who come later. Default 10 s, what a
    /// client of a service mostly waits.
    pub fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.soft_timeout = timeout;
        self
    }

    /// How long a load may take, waiting for its turn included; then it is given up. Default 30 s.
    pub fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.hard_timeout = timeout;
        self
    }

    /// How many loads may run at once in this chain; others wait for their turn. Default 256: more than the connection pool
    /// behind a loader mostly has, and few enough to bound the memory of a cold start.
    ///
    /// Loads that another load of this chain waits for are not counted. They run under its permit; otherwise loads that hold all
    /// permits could wait for each other.
    pub fn concurrent_loads(mut self, loads: usize) -> Self {
        self.concurrent_loads = loads;
        self
    }

    /// How long to wait for a load of the same key by another process before loading it here too. Default 2 s: most loads are
    /// over by then. Zero: each process loads by itself.
    ///
    /// It takes a tier that grants claims, such as Redis or a database.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(crate) fn checked(self) -> Result<Self> {
        let zero = [
            (self.absent_ttl.is_zero(), "the TTL of absent values"),
            (self.soft_timeout.is_zero(), "the soft timeout of loads"),
            (self.hard_timeout.is_zero(), "the hard timeout of loads"),
            (self.concurrent_loads == 0, "the number of concurrent loads"),
        ];
        if let Some((_, what)) = zero.iter().find(|(is_zero, _)| *is_zero) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{what} is zero; leave it out or give it some")));
        }
        if !(0.0..=1e6).contains(&self.early_refresh) {
            return Err(Error::new(ErrorKind::InvalidInput, "the factor of early refresh must be from 0 to a million"));
        }
        Ok(self)
    }

    /// The TTL of what a loader found to be absent.
    pub(crate) fn ttl_of_absence(&self, default: Ttl) -> Ttl {
        default.min(Ttl::After(self.absent_ttl))
    }
}
