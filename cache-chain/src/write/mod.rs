//! Writes: to every tier, from the last up.

mod completion;
mod detached;
mod failures;
mod set;

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use cache_core::{Entry, Expiry, Key, Result, SharedClock, Ttl};
use tokio::sync::oneshot;

use self::completion::Completion;
pub(crate) use self::failures::Failures;
use crate::{
    backfill::Weigher,
    flight::Forget,
    lifetime::Lifetimes,
    repair::Repairer,
    spans::Spans,
    stats::{WriteCounters, WriteStats},
    tier::Tier,
    util::{deadline::Deadline, runtime::RuntimeHandle},
};

/// Writes to the tiers of a chain.
pub(crate) struct Writer<V> {
    tiers: Arc<[Tier<V>]>,
    clock: SharedClock,
    lifetimes: Lifetimes,
    weigher: Weigher<V>,
    /// Limits how long a caller waits for `set` and `del`.
    timeout: Option<Duration>,
    completion: Completion,
    repairer: Arc<Repairer<V>>,
    /// The flights that a write forgets.
    flights: Vec<Box<dyn Forget>>,
    counters: WriteCounters,
    spans: Spans,
}

/// The tiers that are cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    All,
    /// Those that hold copies, and not the application's own data.
    Copies,
}

impl<V: Clone + Send + Sync + 'static> Writer<V> {
    pub(crate) fn new(
        (tiers, clock, runtime): (Arc<[Tier<V>]>, SharedClock, RuntimeHandle),
        (lifetimes, weigher): (Lifetimes, Weigher<V>),
        timeout: Option<Duration>,
        repairer: Arc<Repairer<V>>,
        flights: Vec<Box<dyn Forget>>,
        spans: Spans,
    ) -> Self {
        let ends_at_once = tiers.iter().all(Tier::is_local);
        let (completion, counters) = (Completion::new(runtime, ends_at_once), WriteCounters::default());
        Self { tiers, clock, lifetimes, weigher, timeout, completion, repairer, flights, counters, spans }
    }

    /// Deletes keys.
    pub(crate) async fn del(self: &Arc<Self>, keys: Arc<[Key]>) -> Result<()> {
        let (writer, deleted) = (Arc::clone(self), Arc::clone(&keys));
        self.complete("del", keys, 0, Box::pin(async move { writer.del_all(&deleted).await })).await
    }

    /// Deletes keys from the tiers that hold copies of data that has changed elsewhere.
    pub(crate) async fn invalidate(self: &Arc<Self>, keys: Arc<[Key]>) -> Result<()> {
        let (writer, invalidated) = (Arc::clone(self), Arc::clone(&keys));
        self.complete("invalidate", keys, 0, Box::pin(async move { writer.invalidate_all(&invalidated).await })).await
    }

    /// Deletes a key and returns the value that it had in the last tier.
    pub(crate) async fn take(self: &Arc<Self>, key: Key) -> Result<Option<V>> {
        let (send, taken) = oneshot::channel();
        let (writer, keys) = (Arc::clone(self), Arc::from([key.clone()]));
        let take = async move {
            let (value, deleted) = writer.take_all(&key).await;
            // The caller may have left.
            let _ = send.send(value);
            deleted
        };
        self.complete("take", keys, 0, Box::pin(take)).await?;
        Ok(taken.await.ok().flatten())
    }

    /// Makes the value of a key stale in every tier.
    pub(crate) async fn expire(self: &Arc<Self>, key: Key) -> Result<()> {
        let (writer, keys) = (Arc::clone(self), Arc::from([key.clone()]));
        self.complete("expire", keys, 0, Box::pin(async move { writer.expire_all(&key).await })).await
    }

    /// Gives the value of a key a new TTL in every tier. Returns `true` if the last tier has it.
    pub(crate) async fn touch(self: &Arc<Self>, key: Key, ttl: Ttl) -> Result<bool> {
        let writer = Arc::clone(self);
        let span = self.spans.write("touch", std::slice::from_ref(&key));
        let touch = self.completion.runtime.run(async move {
            let touched = span.enclose(pin!(writer.touch_all(&key, ttl))).await;
            span.outcome(touched.as_ref(), "ok");
            touched
        });
        Deadline::after(self.timeout).bound(&self.completion.runtime, pin!(async { touch.await? })).await
    }

    /// Deletes all keys.
    pub(crate) async fn clear(self: &Arc<Self>, scope: Scope) -> Result<()> {
        let (writer, span) = (Arc::clone(self), self.spans.write("clear", &[]));
        let clear = async move {
            // The values of detached writes are deleted as well. Should these not end, the rest is
            // cleared.
            let _ = writer.completion.detached.wait_for_all().await;
            let cleared = span.enclose(pin!(writer.clear_all(scope))).await;
            span.outcome(cleared.as_ref(), "ok");
            cleared.inspect_err(|_| writer.repairer.start())
        };
        self.completion.run_clear(clear).await
    }

    pub(crate) fn stats(&self) -> WriteStats {
        self.counters.snapshot()
    }

    /// Waits for detached writes.
    pub(crate) async fn wait(&self) -> Result<()> {
        self.completion.detached.wait_for_all().await
    }

    /// Runs a write to its end. The caller waits at most for the timeout of the chain. The write is
    /// boxed, because it is large and may be moved into a task.
    async fn complete(
        self: &Arc<Self>,
        operation: &'static str,
        keys: Arc<[Key]>,
        value_bytes: usize,
        write: Pin<Box<impl Future<Output = Result<()>> + Send + 'static>>,
    ) -> Result<()> {
        let (writer, deleter) = (Arc::clone(self), Arc::clone(self));
        let span = self.spans.write(operation, &keys);
        let write = Box::pin(async move {
            let written = span.enclose(write).await;
            span.outcome(written.as_ref(), "ok");
            written.inspect_err(|_| writer.repairer.start())
        });
        let delete = |keys: Vec<Key>| async move {
            if deleter.del_all(&keys).await.is_err() {
                deleter.repairer.start();
            }
        };
        let bytes = keys.iter().map(Key::memory).fold(value_bytes, usize::saturating_add);
        let write = self.completion.run(keys, bytes, write, delete);
        match self.timeout {
            None => write.await,
            timeout => Deadline::after(timeout).bound(&self.completion.runtime, pin!(write)).await,
        }
    }

    async fn del_all(&self, keys: &[Key]) -> Result<()> {
        let _forgetting = Forgetting { flights: &self.flights, keys: Some(keys) };
        let mut failures = Failures::default();
        for tier in self.tiers.iter().rev() {
            for deleted in tier.del(keys).await {
                failures.note(tier, deleted);
            }
        }
        failures.of_write("del").inspect(|()| self.counters.deleted.add(keys.len()))
    }

    /// Deletes keys from all tiers that hold copies.
    async fn invalidate_all(&self, keys: &[Key]) -> Result<()> {
        let _forgetting = Forgetting { flights: &self.flights, keys: Some(keys) };
        let mut failures = Failures::default();
        for tier in self.tiers.iter().rev().filter(|tier| !tier.is_origin()) {
            for deleted in tier.del(keys).await {
                failures.note(tier, deleted);
            }
        }
        failures.of_write("invalidate").inspect(|()| self.counters.invalidated.add(keys.len()))
    }

    /// Takes the value from the last tier, and deletes the key from the tiers above.
    async fn take_all(&self, key: &Key) -> (Option<V>, Result<()>) {
        let keys = std::slice::from_ref(key);
        let _forgetting = Forgetting { flights: &self.flights, keys: Some(keys) };
        let mut failures = Failures::default();
        let mut value = None;
        for (place, tier) in self.tiers.iter().enumerate().rev() {
            if place + 1 == self.tiers.len() {
                let taken = failures.note(tier, tier.take(key).await).flatten();
                value = taken.filter(|entry| !entry.is_stale(self.clock.now())).and_then(Entry::into_value);
                continue;
            }
            for deleted in tier.del(keys).await {
                failures.note(tier, deleted);
            }
        }
        let taken = usize::from(value.is_some());
        (value, failures.of_write("take").inspect(|()| self.counters.taken.add(taken)))
    }

    /// Without a stale window, deletes the key.
    async fn expire_all(&self, key: &Key) -> Result<()> {
        let keys = std::slice::from_ref(key);
        let Some(stale_for) = self.lifetimes.stale_for else { return self.del_all(keys).await };
        let _forgetting = Forgetting { flights: &self.flights, keys: Some(keys) };
        let mut failures = Failures::default();
        let now = self.clock.now();
        let until = Expiry::after(now, stale_for.into());
        for tier in self.tiers.iter().rev().filter(|tier| !tier.is_source()) {
            failures.note(tier, tier.expire(key, now, until).await);
        }
        failures.of_write("expire").inspect(|()| self.counters.expired.increment())
    }

    /// Touches the tiers from the last up, except an origin, which keeps no TTLs. If the last of them
    /// does not have the value, it is deleted from the tiers above: it may have been deleted by
    /// another process.
    async fn touch_all(&self, key: &Key, ttl: Ttl) -> Result<bool> {
        let mut lifetime = self.lifetimes.of_value(ttl, self.clock.now());
        let mut is_cached = false;
        for (place, tier) in self.tiers.iter().enumerate().rev().filter(|(_, tier)| !tier.is_source()) {
            let now = self.clock.now();
            lifetime.expiry = tier.limit(lifetime.expiry, now);
            let has_value = tier.touch(key, lifetime, now).await?;
            if !is_cached && !has_value {
                self.del_above(key, place).await?;
                return Ok(false);
            }
            is_cached = true;
        }
        self.counters.touched.add(usize::from(is_cached));
        Ok(is_cached)
    }

    async fn del_above(&self, key: &Key, place: usize) -> Result<()> {
        let mut failures = Failures::default();
        for tier in self.tiers[..place].iter().rev() {
            for deleted in tier.del(std::slice::from_ref(key)).await {
                failures.note(tier, deleted);
            }
        }
        failures.of_write("touch").inspect_err(|_| self.repairer.start())
    }

    async fn clear_all(&self, scope: Scope) -> Result<()> {
        let _forgetting = Forgetting { flights: &self.flights, keys: None };
        let mut failures = Failures::default();
        for tier in self.tiers.iter().rev().filter(|tier| scope == Scope::All || !tier.is_origin()) {
            failures.note(tier, tier.clear().await);
        }
        failures.of_write("clear").inspect(|()| self.counters.cleared.increment())
    }
}

/// Forgets the flights of written keys, when the write has ended. Not before: a flight that starts
/// while the lower tiers are written may return the old value, and callers after the write must not
/// join it.
struct Forgetting<'a> {
    flights: &'a [Box<dyn Forget>],
    /// `None`: all keys.
    keys: Option<&'a [Key]>,
}

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        for flights in self.flights {
            match self.keys {
                Some(keys) => keys.iter().for_each(|key| flights.forget(key)),
                None => flights.forget_all(),
            }
        }
    }
}
