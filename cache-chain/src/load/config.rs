//! The settings of loads.

use std::time::Duration;

use cache_core::{Error, ErrorKind, Result};

/// The settings of loads by a chain; see
/// [`ChainCache::get_or_load`](crate::ChainCache::get_or_load).
///
/// The defaults suit production. Features that change which values a caller may get (stale values,
/// early refresh) are off by default.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{ChainCache, ReadThrough, stretto::StrettoStore};
///
/// async fn find_user(id: u64) -> std::io::Result<Option<String>> {
///     Ok((id == 42).then(|| "Ada".to_owned())) // your query
/// }
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let users: ChainCache<String> = ChainCache::builder()
///         .tier(StrettoStore::new(100_000)?)
///         .default_ttl(Duration::from_secs(60))
///         .read_through(ReadThrough::new().stale_for(Duration::from_secs(3600)).early_refresh(1.0))
///         .build()?;
///     assert_eq!(users.get_or_load(42, || find_user(42)).await?.as_deref(), Some("Ada"));
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ReadThrough {
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) stale_for: Option<Duration>,
    pub(crate) serve_stale: ServeStale,
    pub(crate) early_refresh: Option<f64>,
    pub(crate) failure_cooldown: Option<Duration>,
    pub(crate) soft_timeout: Duration,
    pub(crate) hard_timeout: Duration,
    pub(crate) concurrent_loads: usize,
    peer_wait: PeerWait,
}

/// When a call of `get_or_load` gets a stale value.
///
/// A value is stale from the end of its TTL on, for
/// [`ReadThrough::stale_for`](ReadThrough::stale_for). In each mode, a stale value is served at
/// once for a short time after a load of its key has failed
/// ([`ReadThrough::failure_cooldown`]).
///
/// A value that a call has waited with is read again before it is served, because it may have been
/// deleted meanwhile. For this, half of the [timeout](crate::ChainBuilder::timeout) of the chain is
/// left if the tier is remote.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{ChainCache, ReadThrough, ServeStale, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     // A fresh value if the database answers within 50 ms, else the one of the last hour.
///     let read_through = ReadThrough::new()
///         .stale_for(Duration::from_secs(3600))
///         .serve_stale(ServeStale::After(Duration::from_millis(50)));
///     let users: ChainCache<String> = ChainCache::builder()
///         .tier(StrettoStore::new(10_000)?)
///         .default_ttl(Duration::from_secs(60))
///         .read_through(read_through)
///         .build()?;
///
///     users.set(42, "Ada".to_owned()).await?;
///     users.expire(42).await?;
///     let slow = || async {
///         tokio::time::sleep(Duration::from_secs(5)).await;
///         Ok::<_, std::io::Error>("Ada L.".to_owned())
///     };
///     assert_eq!(users.get_or_load(42, slow).await?, "Ada");
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ServeStale {
    /// At once. The value is loaded in the background: `stale-while-revalidate` of RFC 5861.
    #[default]
    AtOnce,
    /// If the load has not ended after this time, or fails. The load goes on in the background.
    After(Duration),
    /// If the load fails, or takes longer than callers wait: `stale-if-error` of RFC 5861.
    IfLoadFails,
}

/// The time for which a load waits for the load of a peer.
#[derive(Clone, Copy, Debug)]
enum PeerWait {
    Never,
    /// As long as a load may take.
    HardTimeout,
    AtMost(Duration),
}

impl Default for ReadThrough {
    fn default() -> Self {
        Self {
            negative_ttl: Some(Duration::from_secs(5)),
            stale_for: None,
            serve_stale: ServeStale::AtOnce,
            early_refresh: None,
            failure_cooldown: Some(Duration::from_secs(1)),
            soft_timeout: Duration::from_secs(10),
            hard_timeout: Duration::from_secs(30),
            concurrent_loads: 256,
            peer_wait: PeerWait::HardTimeout,
        }
    }
}

impl ReadThrough {
    /// Creates the default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the TTL of a key for which the loader found no value, unless the loader sets one.
    /// Default: 5 s, long enough to absorb a burst of requests for a key that does not exist, short
    /// enough that a value created meanwhile is soon seen.
    ///
    /// A shorter [`default_ttl`](crate::ChainBuilder::default_ttl) takes precedence.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// Does not cache that a key has no value, unless the loader sets a TTL.
    pub fn no_negative_caching(mut self) -> Self {
        self.negative_ttl = None;
        self
    }

    /// Lets `get_or_load` serve a value for so long after its TTL while it is loaded again or
    /// cannot be loaded: the `stale-while-revalidate` and `stale-if-error` of RFC 5861. Default: no
    /// stale values.
    ///
    /// It applies to values that are set or loaded with a TTL under this setting: that of the call,
    /// of the loader, or [`default_ttl`](crate::ChainBuilder::default_ttl). A TTL of
    /// [`Tier::default_ttl`](crate::Tier::default_ttl) opens no stale window, and
    /// [`Tier::max_ttl`](crate::Tier::max_ttl) limits it. `get` and the like serve a stale value
    /// only if [asked to](crate::CallOptions::serve_stale).
    pub fn stale_for(mut self, time: Duration) -> Self {
        self.stale_for = Some(time);
        self
    }

    /// Sets when a call gets a stale value: at once, after it has waited for a fresh one, or only
    /// if the load fails. Default: [`ServeStale::AtOnce`].
    pub fn serve_stale(mut self, mode: ServeStale) -> Self {
        self.serve_stale = mode;
        self
    }

    /// Loads a value again before it expires, in the background: at a hit, with a probability that
    /// grows towards the end of the TTL and with the duration of the last load. This is `XFetch` of
    /// "Optimal Probabilistic Cache Stampede Prevention" (VLDB 2015). `beta` is its factor: 1 is
    /// the optimum, and a larger one refreshes earlier. A value of `set` has no load time and is not
    /// refreshed early. Default: no early refresh.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.early_refresh = Some(beta);
        self
    }

    /// Sets for how long after a failed load of a key its stale value is served without another
    /// attempt. Any failed load of the key begins this time; a load that succeeds, or a write of the
    /// key by this chain, ends it. Default: 1 s, so that a failing origin gets one attempt per key and
    /// second.
    pub fn failure_cooldown(mut self, cooldown: Duration) -> Self {
        self.failure_cooldown = Some(cooldown);
        self
    }

    /// Retries a failed refresh at the next hit.
    pub fn no_failure_cooldown(mut self) -> Self {
        self.failure_cooldown = None;
        self
    }

    /// Limits how long a caller waits for a load. After that the caller gets an error of kind
    /// [`Timeout`](ErrorKind::Timeout), and the load goes on in the background for later callers.
    /// Default: 10 s, about as long as clients of a service wait.
    pub fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.soft_timeout = timeout;
        self
    }

    /// Limits the time of a load, including the wait for a permit. After that the load is aborted.
    /// Default: 30 s.
    pub fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.hard_timeout = timeout;
        self
    }

    /// Limits how many loads of this chain run at once. Default: 256, more than most connection
    /// pools behind a loader have, and few enough to bound the memory of a cold start.
    ///
    /// A load that another load of this chain waits for, directly or through other loads, runs
    /// under the permit of that load. Otherwise loads that hold all permits could wait for each
    /// other.
    ///
    /// A load that a load of another chain waits for needs a permit of this chain. The exception
    /// are chains whose loads wait for each other, in pairs or in longer rings: while they do,
    /// those loads run without a permit. So the limit of a chain holds unless its own loaders read
    /// from the chains that load from it.
    pub fn concurrent_loads(mut self, loads: usize) -> Self {
        self.concurrent_loads = loads;
        self
    }

    /// Limits how long a load waits while a peer, another process, loads the same key. After that
    /// this process loads, too. Default: the [`hard_timeout`](Self::hard_timeout), as no load takes
    /// longer. If the peer ends or loses its connection, the wait ends within 5 s.
    ///
    /// This needs a tier that grants claims, such as Redis or a database.
    pub fn peer_wait(mut self, time: Duration) -> Self {
        self.peer_wait = PeerWait::AtMost(time);
        self
    }

    /// Does not wait for peers: each process loads by itself.
    pub fn no_peer_wait(mut self) -> Self {
        self.peer_wait = PeerWait::Never;
        self
    }

    /// Returns how long a load waits for a peer, `None` if it does not.
    pub(crate) fn time_for_peers(&self) -> Option<Duration> {
        match self.peer_wait {
            PeerWait::Never => None,
            PeerWait::HardTimeout => Some(self.hard_timeout),
            PeerWait::AtMost(time) => Some(time),
        }
    }

    pub(crate) fn checked(self) -> Result<Self> {
        let is_zero = |setting: Option<Duration>| setting.is_some_and(|time| time.is_zero());
        for (is_zero, setting, remedy) in [
            (is_zero(self.negative_ttl), "negative_ttl", "call `no_negative_caching`"),
            (is_zero(self.stale_for), "stale_for", "leave it out"),
            (is_zero(self.failure_cooldown), "failure_cooldown", "call `no_failure_cooldown`"),
            (self.soft_timeout.is_zero(), "soft_timeout", "leave it out"),
            (self.hard_timeout.is_zero(), "hard_timeout", "leave it out"),
            (is_zero(self.time_for_peers()), "peer_wait", "call `no_peer_wait`"),
            (self.serve_stale == ServeStale::After(Duration::ZERO), "serve_stale", "use `ServeStale::AtOnce`"),
            (self.concurrent_loads == 0, "concurrent_loads", "leave it out"),
        ] {
            if is_zero {
                let message = format!("`{setting}` is zero; {remedy} or set it above zero");
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
        }
        if !self.early_refresh.is_none_or(|beta| beta > 0.0 && beta <= 1e6) {
            let message = "the factor of `early_refresh` must be above 0 and at most 1,000,000";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(self)
    }
}
