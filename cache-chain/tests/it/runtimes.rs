//! The runtime of the chain and those of its callers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use cache_chain::{Cache, ChainCache, Error, ErrorKind, Result, Tier};
use cache_core::{
    Entry, Key, LocalStore, Profile,
    testkit::{MapStore, ScriptedStore, block_on, yield_now},
};

#[test]
fn a_runtime_without_time_is_refused_and_does_not_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime
            .block_on(async { ChainCache::builder().tier(ScriptedStore::new(MapStore::<u8>::new())).build().map(drop) })
    }));
    let error = outcome.expect("`build` does not panic").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("enable_time"), "{error}");
}

#[test]
fn clear_and_wait_work_where_get_and_set_do() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let chain = runtime.block_on(async { ChainCache::builder().tier(MapStore::<u8>::new()).build().unwrap() });
    block_on(chain.set("k", 1)).unwrap();
    assert_eq!(block_on(chain.get("k")).unwrap(), Some(1));
    let outcome = catch_unwind(AssertUnwindSafe(|| block_on(chain.clear())));
    assert!(outcome.is_ok(), "`clear` panics, though the chain knows its runtime");
}

/// The chain works on the runtime in which it was built, whichever runtime its callers are on.
#[test]
fn a_chain_works_on_the_runtime_it_was_built_in() {
    let builder = || {
        let upper = ScriptedStore::new(MapStore::new());
        upper.at_every_step(|_, _| yield_now());
        (ChainCache::builder().tier(upper.clone()).tier(MapStore::new()).build().unwrap(), upper)
    };
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (chain, upper) = first.block_on(async { builder() });
    // Without timers, and only running while it is called.
    let second = tokio::runtime::Builder::new_current_thread().build().unwrap();
    second.block_on(async {
        chain.set("k", 1).await.unwrap();
        // Polled once and dropped; it has begun.
        let _ = pin!(chain.set("k", 2)).poll(&mut Context::from_waker(Waker::noop()));
    });
    // The second runtime is idle, and the write goes on.
    let held = || LocalStore::get(upper.inner(), &Key::new("k").unwrap()).and_then(Entry::into_value);
    cache_core::testkit::block_on(async {
        chain.wait().await.unwrap();
        assert_eq!((held(), chain.get("k").await.unwrap()), (Some(2), Some(2)));
    });
    drop(first);
    second.block_on(async {
        assert_eq!(chain.set("k", 3).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.del("k").await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.clear().await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.wait().await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(chain.shutdown(Duration::from_secs(3600)).await.unwrap_err().kind(), ErrorKind::Closed);
    });
    assert_eq!(held(), Some(2), "nothing was written");
}

#[tokio::test]
async fn api_futures_are_send_in_spawned_tasks() {
    async fn generic<C: Cache<Value = String> + Clone + 'static>(cache: C, ids: Vec<u32>) -> Result<usize> {
        let task = tokio::spawn(async move {
            let name = String::from("name");
            cache.set(&name, "a".into()).await?;
            cache.set(name.as_str(), "a".into()).await?;
            cache.set((&name, 1_u8, "x"), "b".into()).await?;
            cache.set_many(ids.iter().map(|id| (("user", *id), id.to_string()))).await?;
            let found = cache.get_many(ids.iter().map(|id| ("user", *id))).await?;
            cache.del_many(&ids).await?;
            cache.del_many(ids.iter()).await?;
            Ok::<_, Error>(found.into_iter().flatten().count())
        });
        task.await.expect("no panic")
    }
    let chain: ChainCache<String> = ChainCache::builder().tier(Tier::new(MapStore::new())).build().unwrap();
    assert_eq!(generic(chain, vec![1, 2, 3]).await.unwrap(), 3);
}

/// A local store whose `wait` blocks the thread.
#[derive(Clone)]
struct Blocking(MapStore<u8>, Arc<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>);

impl LocalStore for Blocking {
    type Value = u8;
    fn profile(&self) -> Profile {
        LocalStore::profile(&self.0)
    }
    fn fence(&self) -> &cache_core::Fence {
        self.0.fence()
    }
    fn get(&self, key: &Key) -> Option<Entry<u8>> {
        LocalStore::get(&self.0, key)
    }
    fn insert(&self, key: &Key, entry: Entry<u8>, weight: u64) -> Result<cache_core::Displaced> {
        self.0.insert(key, entry, weight)
    }
    fn remove(&self, key: &Key) -> Result<cache_core::Displaced> {
        self.0.remove(key)
    }
    fn clear(&self) -> Result<()> {
        LocalStore::wait(self)
    }
    fn wait(&self) -> Result<()> {
        let freed = self.1.lock().unwrap().recv_timeout(Duration::from_secs(10));
        freed.map_err(|_| Error::new(ErrorKind::Timeout, "the runtime's thread is blocked"))
    }
}

#[tokio::test]
async fn wait_and_clear_of_a_local_store_do_not_block_the_runtime() {
    let (free, freed) = std::sync::mpsc::channel();
    let store = Blocking(MapStore::new(), Arc::new(std::sync::Mutex::new(freed)));
    let chain = ChainCache::builder().tier(store).build().unwrap();
    tokio::spawn(async move {
        for _ in 0..2 {
            free.send(()).unwrap();
            yield_now().await;
        }
        std::future::pending::<()>().await;
    });
    chain.wait().await.unwrap();
    chain.clear().await.unwrap();
}
