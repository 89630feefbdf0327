//! Tiers: a store, its limits, and the calls that a chain makes to it.

pub(crate) mod breaker;
mod call;
mod erased;
mod fenced;
mod fills;
mod observe;
mod operation;
mod pending_deletes;
pub(crate) mod read;
mod repair;
mod report;
mod write;

use std::{fmt, sync::Arc, time::Duration};

use cache_core::{
    Entry, Error, ErrorKind, Expiry, InvalidationStream, Key, LocalStore, Moment, Result, SharedClock, Store,
    SystemClock, Ttl,
};
use smallvec::SmallVec;

use self::{
    breaker::{Breaker, Circuit},
    erased::ErasedStore,
    fenced::Fenced,
    fills::Fills,
    operation::CallDurations,
    pending_deletes::PendingDeletes,
    report::Reports,
};
use crate::{
    coherence::{Draw, FirstTiers},
    lifetime::TierLifetimes,
    metrics::Publisher,
    spans::Spans,
    stats::{TierCounters, TierStats},
};

/// Places of tiers, counted from the first, which is 0.
pub(crate) type Places = SmallVec<[usize; 2]>;

/// A store as a tier of a chain, with its settings.
///
/// A store converts into a tier with the default settings.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{Breaker, ChainCache, Tier, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let memory = Tier::new(StrettoStore::new(1_000)?).name("memory").max_ttl(Duration::from_secs(30));
///     // In production this is a store that processes share, such as Redis.
///     let shared = Tier::new(StrettoStore::new(100_000)?)
///         .name("shared")
///         .default_ttl(Duration::from_secs(3600))
///         .timeout(Duration::from_millis(200))
///         .breaker(Breaker::new().failures(3));
///     let users: ChainCache<String> = ChainCache::builder().tier(memory).tier(shared).build()?;
///
///     users.set(42, "Ada".to_owned()).await?;
///     let (name, ttl) = users.get_with_ttl(42).await?.expect("it was just set");
///     assert!(name == "Ada" && ttl.as_duration() <= Some(Duration::from_secs(30)));
///     Ok(())
/// }
/// ```
pub struct Tier<V> {
    store: Arc<dyn ErasedStore<V>>,
    /// `true` if its leases are kept by the fence of this process, and the store is not called for
    /// them.
    is_fenced: bool,
    name: Arc<str>,
    lifetimes: TierLifetimes,
    pub(crate) read_timeout: Duration,
    write_timeout: Duration,
    breaker: Option<Circuit>,
    is_origin: bool,
    pending: PendingDeletes,
    /// The fills of loaded entries that are under way.
    pub(crate) fills: Arc<Fills>,
    clock: SharedClock,
    counters: TierCounters,
    durations: CallDurations,
    spans: Spans,
    reports: Reports,
    stream: Option<Arc<dyn InvalidationStream>>,
    /// `true` if its stream also deletes from shared tiers above.
    invalidates_shared: bool,
    /// Set if this is a first tier that follows the stream of a shared one.
    first: Option<Arc<FirstTiers>>,
}

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// Creates a tier with the default settings.
    ///
    /// A store that keeps no leases is put behind a fence of this process, which all chains over
    /// that store share ([`Profile::domain`](cache_core::Profile::domain)). The fence does not see
    /// the writes of other processes. An [`Origin`](cache_core::Origin) needs no fence.
    pub fn new<S: Store<Value = V>>(store: S) -> Self {
        let profile = store.profile();
        // An origin is the last tier and needs no leases, and its closures may take long or call
        // the chain.
        let is_fenced = !profile.leases && !profile.origin;
        let stream = store.invalidations();
        let store: Arc<dyn ErasedStore<V>> = if is_fenced { Arc::new(Fenced::new(store)) } else { Arc::new(store) };
        Self {
            store,
            is_fenced: !profile.leases,
            name: Arc::default(),
            lifetimes: TierLifetimes { default_ttl: Ttl::Never, max_ttl: Ttl::Never },
            read_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(3),
            breaker: (!profile.sharded).then(|| Circuit::new(Breaker::new())),
            is_origin: profile.origin,
            pending: PendingDeletes::new(65_536),
            fills: Arc::default(),
            clock: SystemClock::shared(),
            counters: TierCounters::default(),
            durations: CallDurations::default(),
            spans: Spans::default(),
            reports: Reports::default(),
            stream,
            invalidates_shared: false,
            first: None,
        }
    }

    /// Sets the name in errors and statistics. Default: the place and the kind of the store, such
    /// as "L1 stretto".
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into().into();
        self
    }

    /// Limits every TTL in this tier. Default: no limit. A short one for memory limits how long a
    /// write of another process remains unseen.
    pub fn max_ttl(mut self, ttl: Duration) -> Self {
        self.lifetimes.max_ttl = ttl.into();
        self
    }

    /// Sets the TTL of entries that are stored in this tier without one. Default: they do not
    /// expire.
    pub fn default_ttl(mut self, ttl: Duration) -> Self {
        self.lifetimes.default_ttl = ttl.into();
        self
    }

    /// Limits the time of one call to this tier, be it a read or a write. Local tiers and `clear`
    /// are not limited. Default: 3 s, longer than the timeouts of this project's stores, whose
    /// errors say more.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.read_timeout(timeout).write_timeout(timeout)
    }

    /// Limits the time of one read of this tier, including its lease.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Limits the time of one write to this tier: a `set`, a `del` or a backfill.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Sets when the circuit breaker opens, so that a tier which times out or is unavailable is
    /// skipped. Local tiers have no breaker. Default: [`Breaker::new`]; none for a store of several
    /// servers that keeps calls off those that do not answer ([`Profile::sharded`](cache_core::Profile::sharded)).
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = Some(Circuit::new(breaker));
        self
    }

    /// Never skips this tier, however often it fails.
    pub fn no_breaker(mut self) -> Self {
        self.breaker = None;
        self
    }

    /// Sets for how many keys the chain remembers that a write to this tier failed or has an
    /// unknown outcome. Such a key is not read from the tier until it has been deleted there.
    /// Default: 65,536 keys. Their memory is limited to 256 bytes per key on average, 16 MiB by
    /// default.
    ///
    /// If more writes fail, nothing is read from the tier until it has recovered. After that, only
    /// entries that were created since are read, until a `clear` succeeds. If the store does not
    /// keep the creation times of entries, nothing is read until then.
    pub fn pending_deletes(mut self, keys: usize) -> Self {
        self.pending = PendingDeletes::new(keys);
        self
    }

    /// Sets whether this tier holds the application's data itself, and not a copy. Then only the
    /// application's own deletions delete from it, and it is read also after a write to it has
    /// failed. Default: `true` for [`Origin`](cache_core::Origin), else `false`. Set it for a
    /// database that is written through this chain alone and must keep the old value if a `set`
    /// fails.
    pub fn origin(mut self, origin: bool) -> Self {
        self.is_origin = origin;
        self
    }

    /// Sets the invalidation stream of this tier, in place of that of its store. The tiers above
    /// follow it, as with [`invalidates_shared_tiers`](Self::invalidates_shared_tiers).
    pub fn invalidations(mut self, stream: impl InvalidationStream) -> Self {
        self.stream = Some(Arc::new(stream));
        self.invalidates_shared_tiers()
    }

    /// Lets all tiers above follow the stream of this tier, not only those in this process: what
    /// changes here is deleted from a Redis above, too. The stream announces the chain's own writes
    /// as well, so a value is deleted above soon after it was set, and read again. Changes that are made
    /// while the stream is not connected are not deleted above. Default: only the first tiers follow
    /// the stream of the shared tier right below them.
    pub fn invalidates_shared_tiers(mut self) -> Self {
        self.invalidates_shared = true;
        self
    }

    /// Ignores the invalidation stream of the store: the tiers above do not follow the changes that
    /// others make to this one.
    pub fn no_invalidations(mut self) -> Self {
        self.stream = None;
        self
    }

    /// Names the tier by its place if it has no name, sets the clock, and checks the settings.
    pub(crate) fn placed(mut self, place: usize, clock: &SharedClock) -> Result<Self> {
        if self.name.is_empty() {
            self.name = format!("L{place} {}", self.store.profile().name).into();
        }
        self.clock = Arc::clone(clock);
        let breaker = self.breaker.as_ref().map(|circuit| circuit.settings);
        for (is_zero, setting, remedy) in [
            (self.lifetimes.max_ttl == Ttl::After(Duration::ZERO), "max_ttl", "leave it out"),
            (self.lifetimes.default_ttl == Ttl::After(Duration::ZERO), "default_ttl", "leave it out"),
            (self.read_timeout.is_zero() || self.write_timeout.is_zero(), "timeout", "leave it out"),
            (breaker.is_some_and(|breaker| breaker.failures == 0), "number of breaker failures", "call `no_breaker`"),
            (breaker.is_some_and(|breaker| breaker.probe_interval.is_zero()), "probe interval", "leave it out"),
            (self.pending.capacity == 0, "number of pending deletes", "leave it out"),
        ] {
            if is_zero {
                let message = format!("the {setting} of tier {} is zero; {remedy} or set it above zero", self.name);
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
        }
        Ok(self)
    }

    /// Measures its calls from now on.
    pub(crate) fn measure(&mut self, publisher: &Publisher) {
        self.durations = CallDurations::new(|operation| publisher.tier_calls(&self.name, operation));
    }

    /// Makes spans for its calls from now on.
    pub(crate) fn trace(&mut self, spans: &Spans) {
        self.spans = spans.clone();
    }

    pub(crate) fn title(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn stats(&self) -> TierStats {
        let usage = self.local().and_then(LocalStore::usage);
        self.counters.snapshot(self.pending.len(), usage, self.breaker_state(), self.name.to_string())
    }

    /// Returns the entry of a local tier, unless it is suspect. It is not counted.
    #[inline]
    pub(crate) fn peek(&self, key: &Key) -> Option<Entry<V>> {
        let entry = self.local()?.get(key)?;
        let Some(first) = &self.first else { return Some(entry) };
        if !first.is_current(key, &entry) {
            return None;
        }
        first.sample(key, &entry);
        Some(entry)
    }

    /// As [`peek`](Self::peek), for the auditor.
    pub(crate) fn peek_unsampled(&self, key: &Key) -> Option<Entry<V>> {
        let entry = self.local()?.get(key)?;
        self.first.as_ref().is_none_or(|first| first.is_current(key, &entry)).then_some(entry)
    }

    /// Returns the synchronous interface of the store, if the store is in this process.
    #[inline]
    pub(crate) fn local(&self) -> Option<&dyn LocalStore<Value = V>> {
        self.store.local()
    }

    pub(crate) fn is_local(&self) -> bool {
        self.local().is_some()
    }

    /// Returns `true` if its leases leave something in the store and must be released.
    pub(crate) fn has_markers(&self) -> bool {
        let profile = self.store.profile();
        profile.leases && profile.markers
    }

    /// Returns `true` if it grants claims to one process at a time.
    pub(crate) fn grants_claims(&self) -> bool {
        self.store.profile().claims
    }

    /// Returns `true` if it holds the application's data itself, by its settings.
    pub(crate) fn is_origin(&self) -> bool {
        self.is_origin
    }

    /// Returns `true` if its store is the application's own data, which a chain writes only for the
    /// application.
    pub(crate) fn is_source(&self) -> bool {
        self.store.profile().origin
    }

    /// Returns `true` if its stream also deletes from shared tiers above.
    pub(crate) fn invalidates_shared(&self) -> bool {
        self.invalidates_shared
    }

    /// The stream of changes that the tiers above follow.
    pub(crate) fn stream(&self) -> Option<&Arc<dyn InvalidationStream>> {
        self.stream.as_ref()
    }

    /// Lets this tier, which is local, follow the stream of a shared one.
    pub(crate) fn follow(&mut self, first: &Arc<FirstTiers>) {
        self.first = Some(Arc::clone(first));
    }

    /// Returns `true` if no entry stays in this tier for ever.
    pub(crate) fn is_limited(&self) -> bool {
        self.lifetimes.max_ttl != Ttl::Never
    }

    /// About how many entries the store holds at most, 0 if that is not known.
    pub(crate) fn entries(&self) -> u64 {
        self.store.profile().entries
    }

    /// Returns the state of the first tiers if this is one that follows a shared one.
    pub(crate) fn first(&self) -> Option<&Arc<FirstTiers>> {
        self.first.as_ref()
    }

    /// Draws a stamp for an entry of the key that is about to be stored here, if its entries have
    /// stamps.
    pub(crate) fn draw(&self, key: &Key) -> Option<Draw> {
        self.first.as_ref().map(|first| first.draw(key))
    }

    /// Returns when an entry with this expiry expires in this tier.
    pub(crate) fn limit(&self, expiry: Expiry, now: Moment) -> Expiry {
        self.lifetimes.limit(expiry, now)
    }

    /// Counts a hit that was served without a lookup.
    #[inline]
    pub(crate) fn count_hit(&self) {
        self.counters.hits.increment();
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
            .field("lifetimes", &self.lifetimes)
            .field("read_timeout", &self.read_timeout)
            .field("write_timeout", &self.write_timeout)
            .field("breaker", &self.breaker.as_ref().map(|circuit| circuit.settings))
            .finish_non_exhaustive()
    }
}
