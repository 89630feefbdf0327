//! A value in an `Arc`, in front of a store that encodes values, without the feature `rc` of serde.

use std::sync::Arc;

use cache_chain::{ChainCache, Result, redis::RedisStore};

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct User {
    name: String,
}

async fn build() -> Result<ChainCache<Arc<User>>> {
    let store = RedisStore::<Arc<User>>::builder("redis://127.0.0.1/").namespace("users").connect().await?;
    ChainCache::builder().tier(store).build()
}

fn main() {
    let _ = build;
}
