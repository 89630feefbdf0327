//! How a chain is composed.

use std::{collections::HashSet, fmt, panic::catch_unwind, sync::Arc, time::Duration};

use cache_core::{Error, ErrorKind, Key, Result, SharedClock, SystemClock, Ttl};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};

use crate::{
    backfill::{self, Limits, Queue},
    chain::{ChainCache, Inner},
    completion::Ground,
    flights::Starter,
    leases::{self, Releases},
    mend::Mending,
    pauses::Pauses,
    read_through::ReadThrough,
    stats::LoadCounters,
    tier::Tier,
};

/// Composes a [`ChainCache`]; see [`ChainCache::builder`]. Setters cannot fail; [`build`](Self::build) checks.
#[must_use = "call `build`"]
pub struct ChainBuilder<V> {
    tiers: Vec<Tier<V>>,
    clock: SharedClock,
    limits: Limits,
    weigher: Weigher<V>,
    default_ttl: Ttl,
    jitter: f64,
    deadline: Option<Duration>,
    read_through: ReadThrough,
}

pub(crate) type Weigher<V> = Arc<dyn Fn(&Key, &V) -> usize + Send + Sync>;

impl<V: Clone + Send + Sync + 'static> ChainBuilder<V> {
    pub(crate) fn new() -> Self {
        Self {
            tiers: Vec::new(),
            clock: SystemClock::shared(),
            limits: Limits { items: 10_000, bytes: 64 << 20 },
            weigher: Arc::new(|_, _| 0),
            default_ttl: Ttl::Never,
            jitter: 0.0,
            deadline: None,
            read_through: ReadThrough::default(),
        }
    }

    /// Adds a tier below those added before: a store, or a [`Tier`] with settings.
    pub fn tier(mut self, tier: impl Into<Tier<V>>) -> Self {
        self.tiers.push(tier.into());
        self
    }

    /// Takes the time from this clock; it must be that of the stores. Default: the system's.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// The TTL of what is set or loaded without one. Default: it does not expire, but as the tiers have it
    /// ([`Tier::default_ttl`]).
    pub fn default_ttl(mut self, ttl: Duration) -> Self {
        self.default_ttl = ttl.into();
        self
    }

    /// Shortens every TTL that is set or loaded by a random part of it, up to this fraction (0 to 1), so that what was written
    /// together does not expire together. It never lengthens one. Default 0, since it changes what a caller has asked for;
    /// 0.1 is usual.
    pub fn jitter(mut self, fraction: f64) -> Self {
        self.jitter = fraction;
        self
    }

    /// How long one call of the chain may take in all. A read divides it: each tier, and a loader, may use an equal share of
    /// what is left, so that one that hangs leaves time for those below. A call whose time is up fails with
    /// [`Timeout`](ErrorKind::Timeout); a write or a load goes on in the background. Default: none; the tiers' timeouts add up.
    ///
    /// `clear` and `wait` are not bounded by it.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How to load what no tier has; see [`ChainCache::get_or_load`].
    pub fn read_through(mut self, settings: ReadThrough) -> Self {
        self.read_through = settings;
        self
    }

    /// How many backfills may wait at once. Beyond, they are dropped and counted; reads never wait. Default: 10,000,
    /// some seconds of misses for a busy service.
    pub fn backfill_items(mut self, items: usize) -> Self {
        self.limits.items = items;
        self
    }

    /// How many bytes the waiting backfills may take. Default: 64 MiB. See
    /// [`backfill_weigher`](Self::backfill_weigher) for what is counted.
    pub fn backfill_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// How many bytes a value allocates, for [`backfill_bytes`](Self::backfill_bytes). Default: none; only the value
    /// itself (its `size_of`), its key and what the queue needs are counted.
    pub fn backfill_weigher(mut self, weigher: impl Fn(&Key, &V) -> usize + Send + Sync + 'static) -> Self {
        self.weigher = Arc::new(weigher);
        self
    }

    /// The chain. It spawns the task that drains the backfill queue and connects to nothing.
    ///
    /// # Errors
    ///
    /// Of kind [`InvalidInput`](ErrorKind::InvalidInput) if there is no tier, a TTL, a timeout or another setting is zero or out
    /// of range, the queue has no room at all, two tiers have one name, or no tokio runtime with a timer is running.
    pub fn build(self) -> Result<ChainCache<V>> {
        let invalid = |message: &'static str| Err(Error::new(ErrorKind::InvalidInput, message));
        if self.tiers.is_empty() {
            return invalid("a chain needs at least one tier; add a store with `tier`");
        }
        if self.default_ttl == Ttl::After(Duration::ZERO) || self.deadline.is_some_and(|deadline| deadline.is_zero()) {
            return invalid("the default TTL or the deadline of the chain is zero; leave it out or give it some time");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return invalid("the jitter must be a fraction from 0 to 1");
        }
        if self.limits.items == 0 || self.limits.bytes == 0 {
            return invalid("the backfill queue has no room; give it at least one item and its bytes");
        }
        let Ok(runtime) = Handle::try_current() else {
            return invalid("no tokio runtime is running; build the chain inside of one");
        };
        // There is no asking whether a runtime has a timer but by using it.
        if catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_err() {
            return invalid("the tokio runtime has no timer; build it with `enable_time` or `enable_all`");
        }
        let read_through = self.read_through.checked()?;
        let tiers = self.tiers.into_iter().enumerate().map(|(at, tier)| tier.placed(at + 1, &self.clock));
        let tiers: Arc<[Tier<V>]> = tiers.collect::<Result<Vec<_>>>()?.into();
        let mut names = HashSet::new();
        if let Some(twice) = tiers.iter().find(|tier| !names.insert(tier.title())) {
            let message =
                format!("two tiers are called {:?}; errors and statistics tell them apart by name", twice.title());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let queue = Arc::new(Queue::new(self.limits));
        let (applied, drained) = watch::channel(0);
        runtime.spawn(backfill::drain(Arc::clone(&queue), Arc::clone(&tiers), Arc::clone(&self.clock), applied));
        let ground = Ground::new(runtime);
        let flights = Starter::new(ground.runtime.clone());
        let to_release = Releases::of(&tiers);
        let (count, released) = watch::channel(0);
        if let Some(releases) = &to_release {
            ground.runtime.spawn(leases::give_back(Arc::clone(releases), Arc::clone(&tiers), count));
        }
        Ok(ChainCache::new(Inner {
            tiers,
            queue,
            drained,
            releases: to_release,
            released,
            ground,
            clock: self.clock,
            weigher: self.weigher,
            default_ttl: self.default_ttl,
            jitter: self.jitter,
            deadline: self.deadline,
            reads: [flights.lookups(), flights.lookups()],
            loads: flights.loads(),
            flights,
            permits: Semaphore::new(read_through.concurrent_loads.min(Semaphore::MAX_PERMITS)),
            pauses: Pauses::default(),
            mending: Mending::default(),
            load_counters: LoadCounters::default(),
            read_through,
        }))
    }
}

impl<V> fmt::Debug for ChainBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainBuilder").field("tiers", &self.tiers).field("limits", &self.limits).finish_non_exhaustive()
    }
}
