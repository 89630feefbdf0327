//! The builder of a chain.

use std::{collections::HashSet, fmt, panic::catch_unwind, sync::Arc, time::Duration};

use cache_core::{Error, ErrorKind, InvalidationStream, Key, Result, SharedClock, SystemClock, Ttl};
use tokio::{runtime::Handle, sync::mpsc};

use super::{ChainCache, Parts, metrics::publish_regularly};
use crate::{
    audit,
    backfill::{Backfills, Limits, Weigher},
    coherence::{Coherence, FirstTiers, Sample},
    flight::FlightStarter,
    invalidation::Supervisor,
    lifetime::Lifetimes,
    load::{Loader, ReadThrough},
    metrics::Publisher,
    read::Reader,
    repair::Repairer,
    spans::Spans,
    tier::Tier,
    util::runtime::RuntimeHandle,
    write::Writer,
};

/// Builds a [`ChainCache`]; see [`ChainCache::builder`]. Setters cannot fail;
/// [`build`](Self::build) checks the settings.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{ChainCache, ReadThrough, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let users: ChainCache<String> = ChainCache::builder()
///         .tier(StrettoStore::new(100_000)?)
///         .default_ttl(Duration::from_secs(60))
///         .jitter(0.1)
///         .timeout(Duration::from_millis(500))
///         .read_through(ReadThrough::new().stale_for(Duration::from_secs(3600)))
///         .build()?;
///     users.set(42, "Ada".to_owned()).await?;
///     let (name, ttl) = users.get_with_ttl(42).await?.expect("it was just set");
///     assert!(name == "Ada" && ttl.as_duration() <= Some(Duration::from_secs(60)));
///     Ok(())
/// }
/// ```
#[must_use = "call `build`"]
pub struct ChainBuilder<V> {
    tiers: Vec<Tier<V>>,
    clock: SharedClock,
    limits: Limits,
    weigher: Weigher<V>,
    default_ttl: Ttl,
    jitter: f64,
    timeout: Option<Duration>,
    read_through: ReadThrough,
    coherence: Option<Coherence>,
    publisher: Option<Publisher>,
    spans: Spans,
}

impl<V: Clone + Send + Sync + 'static> ChainBuilder<V> {
    pub(super) fn new() -> Self {
        Self {
            tiers: Vec::new(),
            clock: SystemClock::shared(),
            limits: Limits { items: 10_000, bytes: 64 << 20 },
            weigher: Arc::new(|_, _| 0),
            default_ttl: Ttl::Never,
            jitter: 0.0,
            timeout: None,
            read_through: ReadThrough::default(),
            coherence: Some(Coherence::new()),
            publisher: None,
            spans: Spans::default(),
        }
    }

    /// Adds a tier below those added before: a store, or a [`Tier`] with settings.
    pub fn tier(mut self, tier: impl Into<Tier<V>>) -> Self {
        self.tiers.push(tier.into());
        self
    }

    /// Sets the clock, which must be that of the stores. Default: [`SystemClock`].
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the TTL of values that are set or loaded without one. Default: no TTL; the limits of
    /// each tier apply ([`Tier::default_ttl`]).
    pub fn default_ttl(mut self, ttl: Duration) -> Self {
        self.default_ttl = ttl.into();
        self
    }

    /// Shortens the TTL of each key by a random fraction of it, at most this one (0 to 1), so that
    /// keys written together do not expire together. 0.1 is usual. Default: 0, because it changes
    /// the TTL that a caller asks for.
    pub fn jitter(mut self, fraction: f64) -> Self {
        self.jitter = fraction;
        self
    }

    /// Limits the time of one call of the chain. Default: no limit; the timeouts of the tiers add
    /// up.
    ///
    /// A read divides the time: each tier, and a loader, gets an equal share of what is left, so
    /// that a tier that hangs leaves time for those below. A call that takes longer fails with
    /// [`Timeout`](ErrorKind::Timeout); a write or a load goes on in the background. `clear` and
    /// `wait` are not limited.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how the chain reads through to loaders; see [`ChainCache::get_or_load`].
    pub fn read_through(mut self, settings: ReadThrough) -> Self {
        self.read_through = settings;
        self
    }

    /// Sets how the first tiers follow the shared tier.
    ///
    /// The first tiers are those at the top that are in this process; the shared tier is the one
    /// below them, such as Redis. If its store has an invalidation stream, the first tiers serve no
    /// entry that was changed in the shared tier longer ago than W, by whichever process or program;
    /// see [`Coherence::heartbeat`]. The stream marks changed entries as suspect, and the next read
    /// of such an entry asks the shared tier. While the stream does not prove that it is alive, all
    /// entries are suspect. Default: [`Coherence::new`].
    pub fn coherence(mut self, settings: Coherence) -> Self {
        self.coherence = Some(settings);
        self
    }

    /// Runs no invalidation streams. What other processes change in a shared tier is seen when the
    /// entry in the first tier expires; limit that by [`Tier::max_ttl`].
    pub fn no_coherence(mut self) -> Self {
        self.coherence = None;
        self
    }

    /// Publishes the statistics of the chain, and the durations of its calls to tiers and loaders, as
    /// metrics with this name as the label `cache`. Default: it publishes none.
    ///
    /// The [`metrics`](https://docs.rs/metrics) facade hands them to the recorder that the
    /// application has installed, such as an exporter for Prometheus; install it before the first
    /// chain is built. The statistics are published once a second, and by
    /// [`ChainCache::publish_metrics`]. Keys are no labels. The README of this crate lists the
    /// metrics.
    ///
    /// Give each chain of a process a name of its own: of two counters of one name, the larger one
    /// is published. An empty name is refused by [`build`](Self::build).
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, cache: impl Into<String>) -> Self {
        self.publisher = Some(Publisher::new(cache.into()));
        self
    }

    /// Makes spans of [`tracing`](https://docs.rs/tracing) for everything below the first tier, with
    /// this name as the field `cache`. Default: none.
    ///
    /// The spans are `cache_lookup`, `cache_load` and `cache_write`, within the span of the caller
    /// that started them, and within these `cache_tier_call` for each call to a store that is not in
    /// this process. Their level is `INFO`, their target `cache_chain`. A hit in the first
    /// tier has none. They show no keys, unless [`tracing_with_keys`](Self::tracing_with_keys) is used,
    /// and never a value. The README of this crate lists the fields.
    #[cfg(feature = "tracing")]
    pub fn tracing(mut self, cache: impl Into<String>) -> Self {
        self.spans = Spans::new(cache.into(), false);
        self
    }

    /// As [`tracing`](Self::tracing). Spans of a single key also show the key, in the field `key`.
    #[cfg(feature = "tracing")]
    pub fn tracing_with_keys(mut self, cache: impl Into<String>) -> Self {
        self.spans = Spans::new(cache.into(), true);
        self
    }

    /// Limits the number of queued backfills. Further ones are dropped and counted; reads never
    /// wait. Default: 10,000, some seconds of misses of a busy service.
    pub fn backfill_items(mut self, items: usize) -> Self {
        self.limits.items = items;
        self
    }

    /// Limits the bytes of queued backfills. Default: 64 MiB. See [`weigher`](Self::weigher).
    pub fn backfill_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Sets how many bytes a value allocates. They count towards
    /// [`backfill_bytes`](Self::backfill_bytes), and towards the limit of 64 MiB for writes that go
    /// on after their callers have left. Default: zero; only the value itself (its `size_of`), its
    /// key and some overhead are counted.
    pub fn weigher(mut self, weigher: impl Fn(&Key, &V) -> usize + Send + Sync + 'static) -> Self {
        self.weigher = Arc::new(weigher);
        self
    }

    /// Builds the chain. Spawns the tasks that it needs and connects to nothing.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](ErrorKind::InvalidInput) if there is no tier, if a
    /// TTL, a timeout or another setting is zero or out of range, if the queue has no room, if two
    /// tiers have the same name, or outside of a tokio runtime with a timer.
    pub fn build(self) -> Result<ChainCache<V>> {
        self.check()?;
        let runtime = RuntimeHandle::new(current_runtime()?);
        let settings = self.read_through.checked()?;
        let lifetimes = Lifetimes {
            default_ttl: self.default_ttl,
            jitter: self.jitter,
            stale_for: settings.stale_for,
            negative_ttl: settings.negative_ttl,
        };
        let lifetimes = lifetimes.checked()?;
        let tiers = self.tiers.into_iter().enumerate().map(|(at, tier)| tier.placed(at + 1, &self.clock));
        let mut tiers = tiers.collect::<Result<Vec<_>>>()?;
        check_names(&tiers)?;
        let coherence = self.coherence.map(Coherence::checked).transpose()?;
        let (first, samples) = coherence.as_ref().and_then(|settings| follow(&mut tiers, settings)).unzip();
        let publisher = self.publisher;
        if let Some(publisher) = &publisher {
            for tier in &mut tiers {
                tier.measure(publisher);
            }
        }
        let spans = self.spans;
        for tier in &mut tiers {
            tier.trace(&spans);
        }
        let tiers: Arc<[Tier<V>]> = tiers.into();

        let (clock, timeout) = (self.clock, self.timeout);
        let weigher = Arc::clone(&self.weigher);
        let backfills = Backfills::start(Arc::clone(&tiers), Arc::clone(&clock), self.limits, weigher, &runtime);
        let flights = FlightStarter::new(runtime.clone());
        let reader = Arc::new(Reader::new(
            (Arc::clone(&tiers), Arc::clone(&clock)),
            (runtime.clone(), flights),
            (backfills, spans.clone()),
            (timeout, settings.hard_timeout),
        ));
        let repairer = Repairer::new(Arc::clone(&tiers), runtime.clone());
        let durations = publisher.as_ref().map(Publisher::loads).unwrap_or_default();
        let loader = Loader::new(Arc::clone(&reader), settings, lifetimes.clone(), Arc::clone(&repairer), durations);
        let loader = Arc::new(loader);
        let to_forget = reader.to_forget().chain(loader.to_forget()).collect();
        let (shared, values) = ((tiers, clock, runtime), (lifetimes, self.weigher));
        let writer = Arc::new(Writer::new(shared, values, timeout, Arc::clone(&repairer), to_forget, spans));
        let tiers = &reader.tiers;
        let mut supervisor = match coherence {
            Some(settings) => {
                let streams = streams(tiers, first.as_deref());
                Supervisor::start(streams, (tiers, first.as_ref()), &repairer, settings.heartbeat, &reader.runtime)
            }
            None => Supervisor::default(),
        };
        if let (Some(first), Some(Some(samples))) = (first, samples) {
            supervisor.supervise(&reader.runtime, audit::run(Arc::clone(tiers), first, samples));
        }
        if let Some(publisher) = &publisher {
            let parts = Parts { reader: &reader, loader: &loader, writer: &writer };
            supervisor.supervise(&reader.runtime, publish_regularly(publisher.clone(), &parts));
        }
        Ok(ChainCache { reader, loader, writer, supervisor: Arc::new(supervisor), publisher })
    }

    fn check(&self) -> Result<()> {
        let invalid = |message: &'static str| Err(Error::new(ErrorKind::InvalidInput, message));
        if self.tiers.is_empty() {
            return invalid("a chain needs at least one tier; add a store with `tier`");
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return invalid("the timeout of the chain is zero; leave it out for no limit");
        }
        if self.limits.items == 0 || self.limits.bytes == 0 {
            return invalid("the backfill queue has no room; allow at least one item and its bytes");
        }
        if self.publisher.as_ref().is_some_and(|publisher| !publisher.is_named()) {
            return invalid("the name for the metrics of the chain is empty; give each chain a name of its own");
        }
        Ok(())
    }
}

/// Lets the first tiers follow the stream of the shared tier, if it has one. Without one, warns.
fn follow<V: Clone + Send + Sync + 'static>(
    tiers: &mut [Tier<V>],
    settings: &Coherence,
) -> Option<(Arc<FirstTiers>, Option<mpsc::Receiver<Sample>>)> {
    let shared = tiers.iter().position(|tier| !tier.is_local()).filter(|shared| *shared > 0)?;
    let (above, below) = tiers.split_at_mut(shared);
    let Some(stream) = below[0].stream() else {
        if !below[0].is_origin() && !above.iter().all(Tier::is_limited) {
            tracing::warn!(
                memory = %above[0].title(),
                shared = %below[0].title(),
                "the shared tier has no invalidation stream, so the tier in memory does not see what other processes \
                 write until its entries expire; limit that with `Tier::max_ttl`"
            );
        }
        return None;
    };
    let entries = above.iter().map(Tier::entries).max().filter(|entries| *entries > 0);
    let (first, samples) = FirstTiers::new(settings, &**stream, shared, entries);
    for tier in above {
        tier.follow(&first);
    }
    Some((first, samples))
}

/// Returns the streams to run, with the places of their tiers: that of the shared tier below the
/// first ones, and those that all tiers above them follow.
fn streams<V: Clone + Send + Sync + 'static>(
    tiers: &[Tier<V>],
    first: Option<&FirstTiers>,
) -> Vec<(usize, Arc<dyn InvalidationStream>)> {
    let is_followed = |place, tier: &Tier<V>| {
        first.is_some_and(|first| first.shared == place) || (place > 0 && tier.invalidates_shared())
    };
    let stream = |(place, tier): (usize, &Tier<V>)| {
        let stream = tier.stream().filter(|_| is_followed(place, tier))?;
        Some((place, Arc::clone(stream)))
    };
    tiers.iter().enumerate().filter_map(stream).collect()
}

fn current_runtime() -> Result<Handle> {
    let Ok(runtime) = Handle::try_current() else {
        return Err(Error::new(ErrorKind::InvalidInput, "no tokio runtime is running; build the chain inside of one"));
    };
    // A runtime does not tell whether it has a timer; using it panics if there is none.
    if catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_err() {
        let message = "the tokio runtime has no timer; build it with `enable_time` or `enable_all`";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(runtime)
}

fn check_names<V: Clone + Send + Sync + 'static>(tiers: &[Tier<V>]) -> Result<()> {
    let mut names = HashSet::new();
    let Some(second) = tiers.iter().find(|tier| !names.insert(tier.title())) else { return Ok(()) };
    let message = format!("two tiers are named {:?}; errors and statistics tell tiers apart by name", second.title());
    Err(Error::new(ErrorKind::InvalidInput, message))
}

impl<V> fmt::Debug for ChainBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainBuilder").field("tiers", &self.tiers).field("limits", &self.limits).finish_non_exhaustive()
    }
}
