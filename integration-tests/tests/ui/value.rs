//! A value without the traits of serde, in front of a store that encodes values.

use cache_chain::{ChainCache, Result, redis::RedisStore};

#[derive(Clone)]
struct User;

async fn build() -> Result<ChainCache<User>> {
    let store = RedisStore::<User>::builder("redis://127.0.0.1/").namespace("users").connect().await?;
    ChainCache::builder().tier(store).build()
}

fn main() {
    let _ = build;
}
