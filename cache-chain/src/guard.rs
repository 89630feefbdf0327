//! Leases for a store that keeps none.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cache_core::{Claim, Entry, Key, Profile, Result, Store, Ticket, Write};
use tokio::sync::{Mutex, MutexGuard};

/// A store without leases behind a fence of this process: the protocol of [`cache_core::Fence`], with locks that may be
/// held while the store works. What other processes write is not seen by it.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    store: S,
    stripes: Arc<[Stripe]>,
}

#[derive(Debug, Default)]
struct Stripe {
    version: AtomicU64,
    lock: Mutex<()>,
}

const STRIPES: usize = 256;

impl<S: Store> Guarded<S> {
    pub(crate) fn new(store: S) -> Self {
        Self { store, stripes: (0..STRIPES).map(|_| Stripe::default()).collect() }
    }

    fn stripe_of(key: &Key) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits are used")]
        let low = key.fingerprint().low as usize;
        low % STRIPES
    }

    fn stripe(&self, key: &Key) -> &Stripe {
        &self.stripes[Self::stripe_of(key)]
    }

    /// Locks the stripes of all keys, in the order in which every batch does, so that no two wait for each other.
    async fn lock(&self, keys: &[Key]) -> Vec<(usize, MutexGuard<'_, ()>)> {
        let stripes: BTreeSet<usize> = keys.iter().map(Self::stripe_of).collect();
        let mut locked = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            locked.push((stripe, self.stripes[stripe].lock.lock().await));
        }
        locked
    }

    fn raise_all(&self, locked: &[(usize, MutexGuard<'_, ()>)]) {
        for (stripe, _) in locked {
            self.stripes[*stripe].version.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Stripe {
    /// Voids all tickets; what must follow is done while the guard is held.
    async fn raise(&self) -> MutexGuard<'_, ()> {
        let locked = self.lock.lock().await;
        self.version.fetch_add(1, Ordering::AcqRel);
        locked
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        ticket.version().is_none_or(|version| version == self.version.load(Ordering::Acquire))
    }
}

fn unconditional<V>(write: Write<V>) -> Write<V> {
    Write { ticket: Ticket::unconditional(), ..write }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Guarded<S> {
    type Value = S::Value;

    fn profile(&self) -> Profile {
        self.store.profile().leases(true).claims(false)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        self.store.get(key).await
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        Ok(Ticket::at(self.stripe(key).version.load(Ordering::Acquire)))
    }

    /// A store without leases keeps no claims either.
    async fn claim(&self, key: &Key) -> Result<Claim> {
        Ok(Claim { ticket: self.lease(key).await?, granted: true })
    }

    async fn release(&self, _key: &Key, _ticket: Ticket) -> Result<()> {
        Ok(())
    }

    async fn fill(&self, write: Write<S::Value>) -> Result<bool> {
        let stripe = self.stripe(&write.key);
        let _locked = stripe.lock.lock().await;
        if !stripe.is_current(write.ticket) {
            return Ok(false);
        }
        self.store.fill(unconditional(write)).await
    }

    async fn set(&self, write: Write<S::Value>) -> Result<()> {
        let stripe = self.stripe(&write.key);
        let _locked = stripe.lock.lock().await;
        let current = stripe.is_current(write.ticket);
        stripe.version.fetch_add(1, Ordering::AcqRel);
        if current { self.store.set(unconditional(write)).await } else { self.store.del(&write.key).await }
    }

    async fn del(&self, key: &Key) -> Result<()> {
        let _locked = self.stripe(key).raise().await;
        self.store.del(key).await
    }

    async fn clear(&self) -> Result<()> {
        for stripe in &*self.stripes {
            drop(stripe.raise().await);
        }
        self.store.clear().await
    }

    async fn wait(&self) -> Result<()> {
        self.store.wait().await
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<S::Value>>>> {
        self.store.get_many(keys).await
    }

    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        let mut tickets = Vec::with_capacity(keys.len());
        for key in keys {
            tickets.push(self.lease(key).await);
        }
        tickets
    }

    async fn fill_many(&self, writes: Vec<Write<S::Value>>) -> Vec<Result<bool>> {
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let _locked = self.lock(&keys).await;
        let (places, good): (Vec<usize>, Vec<_>) = writes
            .into_iter()
            .enumerate()
            .filter(|(_, write)| self.stripe(&write.key).is_current(write.ticket))
            .map(|(at, write)| (at, unconditional(write)))
            .unzip();
        let mut filled: Vec<Result<bool>> = keys.iter().map(|_| Ok(false)).collect();
        for (at, done) in places.into_iter().zip(self.store.fill_many(good).await) {
            filled[at] = done;
        }
        filled
    }

    async fn set_many(&self, writes: Vec<Write<S::Value>>) -> Vec<Result<()>> {
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let locked = self.lock(&keys).await;
        // All are checked before any stripe is raised: those of one batch must not void each other's.
        let good: Vec<bool> = writes.iter().map(|write| self.stripe(&write.key).is_current(write.ticket)).collect();
        self.raise_all(&locked);
        let (mut set, mut removed) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (at, (write, good)) in writes.into_iter().zip(good).enumerate() {
            if good {
                set.0.push(at);
                set.1.push(unconditional(write));
            } else {
                removed.0.push(at);
                removed.1.push(write.key);
            }
        }
        let mut results: Vec<Result<()>> = keys.iter().map(|_| Ok(())).collect();
        for (at, done) in set.0.into_iter().zip(self.store.set_many(set.1).await) {
            results[at] = done;
        }
        for (at, done) in removed.0.into_iter().zip(self.store.del_many(&removed.1).await) {
            results[at] = done;
        }
        results
    }

    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        let locked = self.lock(keys).await;
        self.raise_all(&locked);
        self.store.del_many(keys).await
    }

    fn local(&self) -> Option<&dyn cache_core::LocalStore<Value = S::Value>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cache_core::{
        ManualClock, SharedClock,
        testkit::{Harness, MapStore, ScriptedStore, block_on},
    };

    use super::*;

    #[derive(Default)]
    struct GuardedHarness(ManualClock);

    impl Harness for GuardedHarness {
        type Store = Guarded<ScriptedStore<MapStore<String>>>;

        fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
            block_on(test)
        }

        fn clock(&self) -> SharedClock {
            self.0.shared()
        }

        async fn store(&self) -> Self::Store {
            Guarded::new(ScriptedStore::new(MapStore::with_clock(self.0.shared())).without_leases())
        }

        async fn pass(&self, time: Duration) {
            self.0.advance(time);
        }
    }

    cache_core::store_contract!(GuardedHarness::default());
}
