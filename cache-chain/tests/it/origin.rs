//! The application's own data as the last tier.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use cache_chain::{ChainCache, ErrorKind};
use cache_core::{Key, Origin, testkit::MapStore};

type Rows = Arc<Mutex<HashMap<String, u32>>>;

fn rows() -> Rows {
    Arc::new(Mutex::new(HashMap::from([("a".to_owned(), 1)])))
}

fn name(key: &Key) -> String {
    key.as_str().expect("text").to_owned()
}

fn reading(rows: &Rows) -> Origin<u32> {
    let rows = Arc::clone(rows);
    Origin::new(move |key: Key| {
        let found = rows.lock().unwrap().get(&name(&key)).copied();
        async move { if key == Key::new("broken").unwrap() { Err(io::Error::other("no such table")) } else { Ok(found) } }
    })
}

#[tokio::test]
async fn what_is_set_and_deleted_passes_a_read_only_origin_by() {
    let rows = rows();
    let memory = MapStore::new();
    let chain = ChainCache::builder().tier(memory.clone()).tier(reading(&rows)).build().unwrap();
    assert_eq!(chain.get("a").await.unwrap(), Some(1));
    chain.wait().await.unwrap();
    assert_eq!(memory.len(), 1, "backfilled");
    assert_eq!(chain.get("absent").await.unwrap(), None);

    chain.set("b", 2).await.unwrap();
    assert_eq!(chain.get("b").await.unwrap(), Some(2));
    chain.del("a").await.unwrap();
    chain.clear().await.unwrap();
    assert_eq!(*rows.lock().unwrap(), HashMap::from([("a".to_owned(), 1)]));
    assert_eq!(chain.get("a").await.unwrap(), Some(1), "the origin has it still");
    assert_eq!(chain.get("b").await.unwrap(), None);
}

#[tokio::test]
async fn closures_write_and_delete_through() {
    let rows = rows();
    let (written, deleted) = (Arc::clone(&rows), Arc::clone(&rows));
    let origin = reading(&rows)
        .write_through(move |key, value| {
            let written = Arc::clone(&written);
            async move {
                if value == 0 {
                    return Err("zero is not allowed");
                }
                written.lock().unwrap().insert(name(&key), value);
                Ok(())
            }
        })
        .del_through(move |key| {
            deleted.lock().unwrap().remove(&name(&key));
            async { Ok::<(), io::Error>(()) }
        });
    let chain = ChainCache::builder().tier(MapStore::new()).tier(origin).build().unwrap();
    chain.set("b", 2).await.unwrap();
    assert_eq!(rows.lock().unwrap().get("b"), Some(&2));
    chain.del("a").await.unwrap();
    assert_eq!(rows.lock().unwrap().get("a"), None);

    let error = chain.set("b", 0).await.unwrap_err();
    assert_eq!((error.kind(), error.failures()[0].name()), (ErrorKind::Backend, "L2 origin"));
    let source = std::error::Error::source(error.failures()[0].error()).unwrap();
    assert_eq!(source.to_string(), "zero is not allowed");
    assert_eq!(chain.get("b").await.unwrap(), Some(2), "no tier above was set");
}

#[tokio::test]
async fn its_error_is_the_answer() {
    let chain = ChainCache::builder().tier(MapStore::new()).tier(reading(&rows())).build().unwrap();
    let error = chain.get("broken").await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Backend, "the origin failed"));
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no such table");
}
