//! The contract suite on the reference store, which passes, and on a broken store for each clause,
//! which fails in that clause alone.
#![cfg(feature = "testkit")]

use std::{sync::Arc, thread, time::Duration};

use cache_core::{
    LocalStore, ManualClock, SharedClock,
    testkit::{BrokenHarness, Clause, Harness, MapStore, Reentrant, ScriptedStore, block_on},
};

#[derive(Default)]
struct MapHarness(ManualClock);

impl Harness for MapHarness {
    type Store = MapStore<String>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }

    fn clock(&self) -> SharedClock {
        self.0.shared()
    }

    async fn store(&self) -> Self::Store {
        MapStore::with_clock(self.0.shared())
    }

    async fn pass(&self, time: Duration) {
        self.0.advance(time);
    }

    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        Some(Arc::new(MapStore::with_clock(self.0.shared())))
    }
}

#[derive(Default)]
struct ScriptedHarness(MapHarness);

impl Harness for ScriptedHarness {
    type Store = ScriptedStore<MapStore<String>>;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }

    fn clock(&self) -> SharedClock {
        self.0.clock()
    }

    async fn store(&self) -> Self::Store {
        ScriptedStore::new(self.0.store().await)
    }

    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }
}

mod map {
    cache_core::store_contract!(super::MapHarness::default());
}

mod scripted {
    cache_core::store_contract!(super::ScriptedHarness::default());
}

#[test]
fn every_clause_catches_its_own_breach_and_no_other() {
    let caught = Clause::ALL.iter().map(|&broken| {
        thread::spawn(move || {
            let failing = |clause: &Clause| clause.check(BrokenHarness::new(broken)).is_err();
            (broken, Clause::ALL.iter().copied().filter(failing).collect::<Vec<_>>())
        })
    });
    for caught in caught.collect::<Vec<_>>() {
        let (broken, caught) = caught.join().expect("the suite does not panic");
        assert_eq!(caught, [broken], "the store that breaks {broken:?}");
    }
}
