//! Leases for a store that keeps none.

mod fence;
mod key_locks;
#[cfg(all(test, shuttle))]
mod model;

use std::{sync::Arc, time::Duration};

use cache_core::{
    Claim, Entry, InvalidationStream, Key, Lifetime, Moment, Profile, Result, Revalidated, Store, Ticket, Write,
    backend::{ETag, Inspection, ServerTime},
};

use self::fence::SharedFence;

/// A store without leases behind a fence of this process. The fence does not see the writes of
/// other processes.
///
/// All chains over one store share its fence; [`Profile::domain`] tells the stores of one type
/// apart.
#[derive(Clone, Debug)]
pub(super) struct Fenced<S> {
    store: S,
    fence: Arc<SharedFence>,
}

impl<S: Store> Fenced<S> {
    pub(super) fn new(store: S) -> Self {
        let fence = SharedFence::of::<S>(store.profile().domain);
        Self { store, fence }
    }
}

fn unconditional<V>(write: Write<V>) -> Write<V> {
    write.with_ticket(Ticket::unconditional())
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Fenced<S> {
    type Value = S::Value;

    fn profile(&self) -> Profile {
        self.store.profile().leases(true).claims(false).markers(false)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        self.store.get(key).await
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        Ok(self.fence.lease(key))
    }

    async fn lease_within(&self, key: &Key, _life: Duration) -> Result<Ticket> {
        self.lease(key).await
    }

    /// A lease leaves nothing behind.
    async fn release_leases(&self, _leases: &[(Key, Ticket)]) -> Result<()> {
        Ok(())
    }

    /// A store without leases keeps no claims either.
    async fn claim(&self, key: &Key) -> Result<Claim> {
        Ok(Claim::granted(self.lease(key).await?))
    }

    async fn claim_within(&self, key: &Key, _life: Duration) -> Result<Claim> {
        self.claim(key).await
    }

    async fn claim_many_within(&self, keys: &[Key], _life: Duration) -> Vec<Result<Claim>> {
        self.lease_many(keys).await.into_iter().map(|ticket| ticket.map(Claim::granted)).collect()
    }

    async fn renew_claims(&self, _claims: &[(Key, Ticket)], _life: Duration) -> Result<()> {
        Ok(())
    }

    async fn release(&self, _key: &Key, _ticket: Ticket) -> Result<()> {
        Ok(())
    }

    async fn fill(&self, write: Write<S::Value>) -> Result<bool> {
        let _locked = self.fence.locks.lock(&write.key).await;
        if !self.fence.is_current(&write.key, write.ticket) {
            return Ok(false);
        }
        self.store.fill(unconditional(write)).await
    }

    async fn set(&self, write: Write<S::Value>) -> Result<()> {
        let _locked = self.fence.locks.lock(&write.key).await;
        let current = self.fence.is_current(&write.key, write.ticket);
        self.fence.void(&write.key);
        if current { self.store.set(unconditional(write)).await } else { self.store.del(&write.key).await }
    }

    async fn del(&self, key: &Key) -> Result<()> {
        let _locked = self.fence.begin_write(key).await;
        self.store.del(key).await
    }

    /// The key is locked, so the store need not take it at once.
    async fn take(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        let _locked = self.fence.begin_write(key).await;
        self.store.take(key).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        let _locked = self.fence.locks.lock(key).await;
        self.store.touch(key, lifetime, now).await
    }

    async fn clear(&self) -> Result<()> {
        self.fence.void_all().await;
        self.store.clear().await
    }

    async fn wait(&self) -> Result<()> {
        self.store.wait().await
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<S::Value>>>> {
        self.store.get_many(keys).await
    }

    async fn revalidate_many(&self, keys: &[(Key, Option<ETag>)]) -> Vec<Result<Revalidated<S::Value>>> {
        self.store.revalidate_many(keys).await
    }

    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        let mut tickets = Vec::with_capacity(keys.len());
        for key in keys {
            tickets.push(self.lease(key).await);
        }
        tickets
    }

    async fn lease_many_within(&self, keys: &[Key], _life: Duration) -> Vec<Result<Ticket>> {
        self.lease_many(keys).await
    }

    async fn fill_many(&self, writes: Vec<Write<S::Value>>) -> Vec<Result<bool>> {
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let _locked = self.fence.locks.lock_all(&keys).await;
        let (places, good): (Vec<usize>, Vec<_>) = writes
            .into_iter()
            .enumerate()
            .filter(|(_, write)| self.fence.is_current(&write.key, write.ticket))
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
        let _locked = self.fence.locks.lock_all(&keys).await;
        // All are checked before any is voided, because keys of one batch may share a stripe.
        let good: Vec<bool> = writes.iter().map(|write| self.fence.is_current(&write.key, write.ticket)).collect();
        for key in &keys {
            self.fence.void(key);
        }
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
        let _locked = self.fence.locks.lock_all(keys).await;
        for key in keys {
            self.fence.void(key);
        }
        self.store.del_many(keys).await
    }

    async fn server_time(&self) -> Result<Option<ServerTime>> {
        self.store.server_time().await
    }

    async fn inspect(&self, key: &Key) -> Result<Option<Inspection>> {
        self.store.inspect(key).await
    }

    fn invalidations(&self) -> Option<Arc<dyn InvalidationStream>> {
        self.store.invalidations()
    }

    fn local(&self) -> Option<&dyn cache_core::LocalStore<Value = S::Value>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use cache_core::{
        ManualClock, SharedClock,
        testkit::{Harness, MapStore, ScriptedStore, block_on},
    };

    use super::*;

    #[derive(Default)]
    struct FencedHarness(ManualClock);

    impl Harness for FencedHarness {
        type Store = Fenced<ScriptedStore<MapStore<String>>>;

        fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
            block_on(test)
        }

        fn clock(&self) -> SharedClock {
            self.0.shared()
        }

        async fn store(&self) -> Self::Store {
            Fenced::new(ScriptedStore::new(MapStore::with_clock(self.0.shared())).without_leases())
        }

        async fn pass(&self, time: Duration) {
            self.0.advance(time);
        }
    }

    cache_core::store_contract!(FencedHarness::default());

    fn fenced() -> Fenced<ScriptedStore<MapStore<String>>> {
        Fenced::new(ScriptedStore::new(MapStore::new()).without_leases())
    }

    fn write(name: &str, ticket: Ticket) -> Write<String> {
        let entry = Entry::new("v".to_owned(), cache_core::Expiry::Never);
        Write::new(Key::new(name).unwrap(), entry, ticket)
    }

    #[test]
    fn a_store_has_one_fence_as_long_as_it_is_in_use() {
        let (one, other) = (fenced(), fenced());
        let again = Fenced::new(one.store.clone());
        assert!(Arc::ptr_eq(&one.fence, &again.fence));
        assert!(!Arc::ptr_eq(&one.fence, &other.fence), "stores of different domains");
        let weak = Arc::downgrade(&one.fence);
        drop((one, again));
        assert!(weak.upgrade().is_none());
    }

    /// Writes that wait for each other's end would hang; a batch that waits for a busy key holds no
    /// other.
    #[tokio::test]
    async fn a_batch_that_waits_for_one_key_does_not_lock_the_others() {
        let store = fenced();
        let gate = store.store.stall(cache_core::testkit::Operation::Del);
        let a = Key::new("a").unwrap();
        let mut deleting = Box::pin(store.del(&a));
        assert!(poll_once(&mut deleting).await.is_none());
        let mut batch = Box::pin(store.set_many(vec![
            write("a", Ticket::unconditional()),
            write("b", Ticket::unconditional()),
            write("b", Ticket::unconditional()),
        ]));
        assert!(poll_once(&mut batch).await.is_none());
        store.set(write("b", Ticket::unconditional())).await.unwrap();
        gate.open();
        deleting.await.unwrap();
        for set in batch.await {
            set.unwrap();
        }
        assert_eq!(store.fence.locks.len(), 0);
    }

    #[tokio::test]
    async fn a_dropped_call_leaves_no_lock_behind() {
        let store = fenced();
        let _gate = store.store.stall(cache_core::testkit::Operation::Set);
        let mut holder = Box::pin(store.set(write("k", Ticket::unconditional())));
        let mut waiter = Box::pin(store.set(write("k", Ticket::unconditional())));
        assert!(poll_once(&mut holder).await.is_none() && poll_once(&mut waiter).await.is_none());
        assert_eq!(store.fence.locks.len(), 1);
        drop(waiter);
        assert_eq!(store.fence.locks.len(), 1, "the other still holds it");
        drop(holder);
        assert_eq!(store.fence.locks.len(), 0);
        store.del(&Key::new("k").unwrap()).await.unwrap();
    }

    /// Polls the future once and returns its output, if it is ready.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
