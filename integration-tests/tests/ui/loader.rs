//! A loader that returns a value of another type than the cache holds.

use cache_chain::{ChainCache, Error};

async fn get(users: &ChainCache<String>) {
    let _ = users.get_or_load(42, || async { Ok::<_, Error>(7_u64) }).await;
}

fn main() {
    let _ = get;
}
