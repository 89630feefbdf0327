//! One tier of a chain: a store, its limits and its counters.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use cache_core::{
    Entry, Error, ErrorKind, Expiry, Key, LocalStore, MAX_TTL, Moment, Result, Store, Ticket, Ttl, Write,
};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use crate::{
    erased::ErasedStore,
    guard::Guarded,
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
    store: Arc<dyn ErasedStore<V>>,
    name: Option<String>,
    max_ttl: Ttl,
    default_ttl: Ttl,
    timeout: Duration,
    counters: TierCounters,
}

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// A tier of `store`.
    ///
    /// A store that keeps no leases is guarded by a fence of this process; what other processes write is not seen by it.
    pub fn new<S: Store<Value = V>>(store: S) -> Self {
        let store: Arc<dyn ErasedStore<V>> =
            if store.profile().leases { Arc::new(store) } else { Arc::new(Guarded::new(store)) };
        Self {
            store,
            name: None,
            max_ttl: Ttl::Never,
            default_ttl: Ttl::Never,
            timeout: Duration::from_secs(3),
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

    /// How long one call of this tier may take; local tiers and `clear` are not timed. Default: 3 s, above the
    /// deadlines of this project's stores, so that their more telling errors come first.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Gives the tier its place in the chain and checks its settings.
    pub(crate) fn placed(mut self, place: usize) -> Result<Self> {
        let kind = self.store.profile().name;
        let name = self.name.get_or_insert_with(|| format!("L{place} {kind}"));
        let zero = [
            (self.max_ttl == Ttl::After(Duration::ZERO), "maximum TTL"),
            (self.default_ttl == Ttl::After(Duration::ZERO), "default TTL"),
            (self.timeout.is_zero(), "timeout"),
        ];
        for (is_zero, what) in zero {
            if is_zero {
                let message = format!("the {what} of tier {name} is zero; leave it out or give it some time");
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
        }
        Ok(self)
    }

    pub(crate) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or("a tier")
    }

    pub(crate) fn stats(&self) -> TierStats {
        self.counters.snapshot(self.title())
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

    /// Counts an answer to a read; bytes that do not decode count as a miss.
    pub(crate) fn answered(&self, found: Result<Option<Entry<V>>>) -> Result<Option<Entry<V>>> {
        match &found {
            Ok(Some(_)) => self.counters.hits.one(),
            Ok(None) => self.counters.misses.one(),
            Err(error) if error.kind() == ErrorKind::Codec => {
                self.counters.undecodable.one();
                self.counters.misses.one();
                return Ok(None);
            }
            Err(error) => self.failed(error),
        }
        found
    }

    fn failed(&self, error: &Error) {
        self.counters.errors.one();
        if error.kind() == ErrorKind::Timeout {
            self.counters.timeouts.one();
        }
    }

    fn checked<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.failed(error))
    }

    /// Bounds a call of the store in time.
    async fn timed<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        if self.local().is_some() {
            return call.await;
        }
        self.before(self.deadline(), call).await
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.timeout).unwrap_or(now + MAX_TTL)
    }

    async fn before<T>(&self, deadline: Instant, call: impl Future<Output = Result<T>>) -> Result<T> {
        timeout_at(deadline, call).await.unwrap_or_else(|_| {
            let message = format!("tier {} did not answer within {:?}", self.title(), self.timeout);
            Err(Error::new(ErrorKind::Timeout, message))
        })
    }

    /// The results of a batch of `count`, each a failure if there are more or fewer.
    async fn timed_many<T>(&self, count: usize, call: impl Future<Output = Vec<Result<T>>>) -> Vec<Result<T>> {
        if count == 0 {
            return Vec::new();
        }
        let answered = self.timed(async {
            let results = call.await;
            if results.len() == count {
                return Ok(results);
            }
            let message = format!("tier {} gave {} results for {count} keys", self.title(), results.len());
            Err(Error::new(ErrorKind::Backend, message))
        });
        match answered.await {
            Ok(results) => results,
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    /// The entry of the key or, if it is missed and `lease` says so, a ticket, all within one timeout. A tier that gives no
    /// ticket has answered all the same.
    pub(crate) async fn look_up(&self, key: &Key, lease: bool) -> Result<Found<V>> {
        if let Some(local) = self.local() {
            return Ok(match self.answered(Ok(local.get(key)))? {
                Some(entry) => Found::Entry(entry),
                None => Found::Nothing(lease.then(|| local.fence().lease(key))),
            });
        }
        let deadline = self.deadline();
        if let Some(entry) = self.answered(self.before(deadline, self.store.get(key)).await)? {
            return Ok(Found::Entry(entry));
        }
        if !lease {
            return Ok(Found::Nothing(None));
        }
        Ok(Found::Nothing(self.checked(self.before(deadline, self.store.lease(key)).await).ok()))
    }

    pub(crate) async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<V>>>> {
        let found = self.timed_many(keys.len(), self.store.get_many(keys)).await;
        found.into_iter().map(|found| self.answered(found)).collect()
    }

    pub(crate) async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        let tickets = match keys {
            [key] => vec![self.timed(self.store.lease(key)).await],
            _ => self.timed_many(keys.len(), self.store.lease_many(keys)).await,
        };
        tickets.into_iter().map(|ticket| self.checked(ticket)).collect()
    }

    pub(crate) async fn fill_many(&self, writes: Vec<Write<V>>) -> Vec<Result<bool>> {
        let filled = match one(writes) {
            Ok(write) => vec![self.timed(self.store.fill(write)).await],
            Err(writes) => self.timed_many(writes.len(), self.store.fill_many(writes)).await,
        };
        filled.into_iter().map(|filled| self.checked(filled)).collect()
    }

    pub(crate) async fn set_many(&self, writes: Vec<Write<V>>) -> Vec<Result<()>> {
        let set = match one(writes) {
            Ok(write) => vec![self.timed(self.store.set(write)).await],
            Err(writes) => self.timed_many(writes.len(), self.store.set_many(writes)).await,
        };
        set.into_iter().map(|set| self.checked(set)).collect()
    }

    pub(crate) async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        let deleted = match keys {
            [key] => vec![self.timed(self.store.del(key)).await],
            _ => self.timed_many(keys.len(), self.store.del_many(keys)).await,
        };
        deleted.into_iter().map(|deleted| self.checked(deleted)).collect()
    }

    /// A `clear` takes as many round trips as there are keys to remove, each bounded by the store itself.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.checked(self.unblocked(|store| Box::pin(async move { store.clear().await })).await)
    }

    pub(crate) async fn wait(&self) -> Result<()> {
        let wait = self.unblocked(|store| Box::pin(async move { store.wait().await }));
        self.checked(self.timed(wait).await)
    }

    /// Runs what blocks the thread in a local store on a thread that may be blocked.
    async fn unblocked(
        &self,
        call: impl FnOnce(Arc<dyn ErasedStore<V>>) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>,
    ) -> Result<()> {
        let call = call(Arc::clone(&self.store));
        if self.local().is_none() {
            return call.await;
        }
        let runtime = Handle::current();
        match tokio::task::spawn_blocking(move || runtime.block_on(call)).await {
            Ok(result) => result,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(Error::new(ErrorKind::Closed, "the runtime has ended")),
        }
    }
}

/// What a tier has of a key.
pub(crate) enum Found<V> {
    Entry(Entry<V>),
    /// Nothing, and a ticket if one was asked for and given.
    Nothing(Option<Ticket>),
}

/// The only one of several, if it is: a store's single call is cheaper than a batch of one.
fn one<T>(mut several: Vec<T>) -> Result<T, Vec<T>> {
    if several.len() == 1 { several.pop().ok_or(several) } else { Err(several) }
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
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
