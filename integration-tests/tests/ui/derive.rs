//! Types for which no key can be derived.

use cache_chain::CacheKey;

#[derive(CacheKey)]
struct Unit;

#[derive(CacheKey)]
union Either {
    a: u8,
    b: u16,
}

#[derive(CacheKey)]
struct Price {
    amount: f64,
}

fn main() {}
