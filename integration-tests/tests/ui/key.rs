//! A key whose type is no key.

use cache_chain::{ChainCache, Result};

struct UserId(u64);

async fn get(users: &ChainCache<String>) -> Result<Option<String>> {
    users.get(("acme", UserId(42))).await
}

fn main() {
    let _ = get;
}
