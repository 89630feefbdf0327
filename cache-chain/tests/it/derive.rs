//! `#[derive(CacheKey)]` as this crate re-exports it.

use cache_chain::{CacheKey, ChainCache};
use cache_core::testkit::MapStore;

#[derive(CacheKey)]
struct UserKey<'a> {
    tenant: &'a str,
    id: u64,
}

#[tokio::test]
async fn a_derived_key_is_the_tuple_of_its_fields() {
    let users: ChainCache<String> = ChainCache::builder().tier(MapStore::new()).build().unwrap();
    users.set(UserKey { tenant: "acme", id: 42 }, "Ada".to_owned()).await.unwrap();
    assert_eq!(users.get(("acme", 42)).await.unwrap().as_deref(), Some("Ada"));
}
