//! What a detailed read returns.

use std::{fmt, sync::Arc, time::Duration};

use cache_core::Ttl;

/// The result of a detailed read; see
/// [`ChainCache::get_detailed`](crate::ChainCache::get_detailed).
///
/// `Debug` does not show the value.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found<V> {
    /// The value, `None` if the key has none.
    pub value: Option<V>,
    /// Where the value came from.
    pub source: Source,
    /// Whether the value has outlived its TTL and is served within
    /// [`ReadThrough::stale_for`](crate::ReadThrough::stale_for).
    pub stale: bool,
    /// The time since the value was loaded or set, `None` if the store does not keep it.
    pub age: Option<Duration>,
    /// For how much longer the value may be served, fresh or stale.
    pub ttl: Ttl,
}

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Source {
    /// The tier of this name, such as "L1 stretto".
    Tier(Arc<str>),
    /// A loader: the caller's, or that of a concurrent caller.
    Loaded,
    /// No tier has the key, and nothing was loaded.
    Nowhere,
}

impl<V> Found<V> {
    pub(crate) fn nowhere() -> Self {
        Self { value: None, source: Source::Nowhere, stale: false, age: None, ttl: Ttl::Never }
    }
}

impl<V> fmt::Debug for Found<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("is_some", &self.value.is_some())
            .field("source", &self.source)
            .field("stale", &self.stale)
            .field("age", &self.age)
            .field("ttl", &self.ttl)
            .finish()
    }
}

/// The tier of this name, "a loader" or "nowhere".
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tier(name) => name,
            Self::Loaded => "a loader",
            Self::Nowhere => "nowhere",
        })
    }
}
