//! The harness of the broken stores.

use std::{sync::Arc, time::Duration};

use super::{Broken, ROOM};
use crate::{
    Displaced, Entry, Fence, Key, LocalStore, ManualClock, Profile, Result, SharedClock,
    testkit::{Clause, Harness, MapStore, Reentrant, block_on},
};

/// Makes stores that break this clause.
#[derive(Clone, Debug)]
pub struct BrokenHarness {
    clause: Clause,
    clock: ManualClock,
}

impl BrokenHarness {
    pub(super) const DROP_BOUND: Duration = Duration::from_millis(300);

    /// A harness of stores that break `clause`.
    pub fn new(clause: Clause) -> Self {
        Self { clause, clock: ManualClock::new() }
    }
}

impl Harness for BrokenHarness {
    type Store = Broken;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }

    fn clock(&self) -> SharedClock {
        self.clock.shared()
    }

    async fn store(&self) -> Broken {
        Broken {
            clause: self.clause,
            map: MapStore::with_clock(self.clock.shared()),
            clock: self.clock.clone(),
            state: Arc::default(),
        }
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn oversized(&self) -> Option<String> {
        Some("v".repeat(ROOM + 1))
    }

    async fn corrupt(&self, store: &Broken, key: &Key) -> bool {
        store.state().corrupt.insert(key.clone())
    }

    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        let map = MapStore::with_clock(self.clock.shared());
        if self.clause == Clause::S22 { Some(Arc::new(DropsUnderTheFence(map))) } else { Some(Arc::new(map)) }
    }

    fn drop_bound(&self) -> Duration {
        // Short where it is to be exceeded, ample on a busy machine where it is not.
        if matches!(self.clause, Clause::S15 | Clause::S22) { Self::DROP_BOUND } else { Duration::from_secs(30) }
    }
}

/// Breaks S22: drops the entry that it replaces while the lock of the fence is held.
struct DropsUnderTheFence(MapStore<Reentrant>);

impl LocalStore for DropsUnderTheFence {
    type Value = Reentrant;

    fn profile(&self) -> Profile {
        LocalStore::profile(&self.0)
    }

    fn fence(&self) -> &Fence {
        self.0.fence()
    }

    fn get(&self, key: &Key) -> Option<Entry<Reentrant>> {
        LocalStore::get(&self.0, key)
    }

    fn insert(&self, key: &Key, entry: Entry<Reentrant>, weight: u64) -> Result<Displaced> {
        drop(self.0.insert(key, entry, weight)?);
        Ok(Displaced::nothing())
    }

    fn remove(&self, key: &Key) -> Result<Displaced> {
        self.0.remove(key)
    }

    fn clear(&self) -> Result<()> {
        LocalStore::clear(&self.0)
    }

    fn wait(&self) -> Result<()> {
        LocalStore::wait(&self.0)
    }
}
