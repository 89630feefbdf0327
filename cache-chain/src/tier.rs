//! One tier of a chain: a store and what the chain should know about it.

use std::{fmt, sync::Arc, time::Duration};

use cache_core::{Error, ErrorKind, Expiry, LocalStore, Moment, Result, SharedClock, Store, SystemClock, Ttl};

use crate::{
    breaker::{self, Breaker},
    erased::ErasedStore,
    guard::Guarded,
    journal::Journal,
    stats::{TierCounters, TierStats},
};

/// A store as one tier of a chain, with what the chain should know about it.
///
/// Every store turns into a tier with the defaults.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cache_chain::{ChainCache, Tier};
/// use cache_core::testkit::MapStore;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let chain: ChainCache<String> = ChainCache::builder()
///     .tier(Tier::new(MapStore::new()).max_ttl(Duration::from_secs(60)))
///     .tier(MapStore::new())
///     .build()?;
/// # Ok::<(), cache_chain::Error>(()) }).unwrap();
/// ```
pub struct Tier<V> {
    pub(crate) store: Arc<dyn ErasedStore<V>>,
    /// Whether its leases are kept here, so that they say nothing about the store.
    pub(crate) leases_here: bool,
    /// Whether its leases leave something behind that is to be given back.
    pub(crate) markers: bool,
    name: Option<String>,
    max_ttl: Ttl,
    default_ttl: Ttl,
    pub(crate) read_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) breaker: Breaker,
    /// Whether it holds the truth itself.
    pub(crate) origin: bool,
    pub(crate) journal: Journal,
    pub(crate) clock: SharedClock,
    pub(crate) counters: TierCounters,
}

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// A tier of `store`.
    ///
    /// A store that keeps no leases is guarded by a fence of this process, which all chains over that store share
    /// ([`Profile::domain`](cache_core::Profile::domain)); what other processes write is not seen by it. An origin is not
    /// guarded.
    pub fn new<S: Store<Value = V>>(store: S) -> Self {
        let profile = store.profile();
        let leases_here = !profile.leases;
        // An origin is the last of its chain and needs no leases, and its closures may take long or call the chain.
        let is_guarded = leases_here && !profile.origin;
        let store: Arc<dyn ErasedStore<V>> = if is_guarded { Arc::new(Guarded::new(store)) } else { Arc::new(store) };
        Self {
            store,
            leases_here,
            markers: profile.leases && profile.markers,
            name: None,
            max_ttl: Ttl::Never,
            default_ttl: Ttl::Never,
            read_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(3),
            breaker: Breaker::new(breaker::Settings::default()),
            origin: profile.origin,
            journal: Journal::new(65_536),
            clock: SystemClock::shared(),
            counters: TierCounters::default(),
        }
    }

    /// The name in errors and statistics. Default: its place and kind, such as "L1 stretto".
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Cuts every TTL in this tier to at most this. Default: no cut. A short one in memory bounds how long another
    /// process's write goes unseen.
    pub fn max_ttl(mut self, ttl: Duration) -> Self {
        self.max_ttl = ttl.into();
        self
    }

    /// The TTL of what is stored in this tier without one. Default: it does not expire.
    pub fn default_ttl(mut self, ttl: Duration) -> Self {
        self.default_ttl = ttl.into();
        self
    }

    /// How long one call of this tier may take, be it a read or a write; local tiers and `clear` are not timed. Default: 3 s,
    /// above the deadlines of this project's stores, so that their more telling errors come first.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.read_timeout(timeout).write_timeout(timeout)
    }

    /// How long a read of this tier may take, its lease included.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// How long a write of this tier may take: `set`, `del`, or a backfill.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// When to pass this tier over: after so many calls in a row that were late or found it unavailable. One call is let
    /// through every `pause`, and if it is answered, the tier is used again. Local tiers have no breaker.
    ///
    /// Default: 5 failures, 1 s. A single lost connection does not open it; a tier that hangs costs its timeout five times and
    /// then nothing. Zero failures: it is never passed over.
    pub fn breaker(mut self, failures: u32, pause: Duration) -> Self {
        self.breaker = Breaker::new(breaker::Settings { failures, pause });
        self
    }

    /// Of how many keys to remember that a write of them to this tier failed, or that its outcome is unknown. What the tier
    /// holds of them is not read until it has been deleted there. Default: 65,536. Their
    /// memory is bounded as well, to 256 bytes per key on average, which is 16 MiB by default.
    ///
    /// If there are more, the whole tier is distrusted, and what was made before its recovery is never read again, until
    /// `clear` has succeeded. A store that does not tell when an entry was made has nothing to be read then.
    pub fn journal(mut self, keys: usize) -> Self {
        self.journal = Journal::new(keys);
        self
    }

    /// Whether this tier holds the truth itself and not a copy of it. Then nothing is deleted from it but what the application
    /// deletes, and what it gives is believed, also after a write to it has failed. Default: as the store says; only
    /// [`Origin`](cache_core::Origin) says yes. Say yes to a database that is written through this chain alone and must not
    /// lose the old value when a `set` fails.
    pub fn origin(mut self, origin: bool) -> Self {
        self.origin = origin;
        self
    }

    /// Gives the tier its place in the chain and checks its settings.
    pub(crate) fn placed(mut self, place: usize, clock: &SharedClock) -> Result<Self> {
        let kind = self.store.profile().name;
        self.clock = Arc::clone(clock);
        let name = self.name.get_or_insert_with(|| format!("L{place} {kind}"));
        let zero = [
            (self.max_ttl == Ttl::After(Duration::ZERO), "maximum TTL"),
            (self.default_ttl == Ttl::After(Duration::ZERO), "default TTL"),
            (self.read_timeout.is_zero() || self.write_timeout.is_zero(), "timeout"),
            (self.breaker.settings.pause.is_zero(), "breaker's pause"),
            (self.journal.capacity == 0, "size of the journal"),
        ];
        for (is_zero, what) in zero {
            if is_zero {
                let message = format!("the {what} of tier {name} is zero; leave it out or give it some");
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
        }
        Ok(self)
    }

    pub(crate) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or("a tier")
    }

    pub(crate) fn stats(&self) -> TierStats {
        self.counters.snapshot(self.title(), self.journal.len())
    }

    pub(crate) fn local(&self) -> Option<&dyn LocalStore<Value = V>> {
        self.store.local()
    }

    /// When an entry with this expiry expires in this tier.
    pub(crate) fn expiry(&self, expiry: Expiry, now: Moment) -> Expiry {
        let own = if expiry == Expiry::Never { self.default_ttl } else { Ttl::Never };
        expiry.min(Expiry::after(now, own.min(self.max_ttl)))
    }

    pub(crate) fn hit(&self) {
        self.counters.hits.one();
    }
}

impl<S: Store> From<S> for Tier<S::Value> {
    fn from(store: S) -> Self {
        Self::new(store)
    }
}

impl<V> fmt::Debug for Tier<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tier")
            .field("name", &self.name)
            .field("max_ttl", &self.max_ttl)
            .field("default_ttl", &self.default_ttl)
            .field("read_timeout", &self.read_timeout)
            .field("write_timeout", &self.write_timeout)
            .field("breaker", &self.breaker.settings)
            .finish_non_exhaustive()
    }
}
