//! Where a value came from, for those who ask.

use std::{fmt, time::Duration};

use cache_core::Ttl;

/// What a read found, and where; see [`ChainCache::get_detailed`](crate::ChainCache::get_detailed).
///
/// `Debug` does not show the value.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome<V> {
    /// The value, `None` if there is none.
    pub value: Option<V>,
    /// Where it was found, or that it is not there.
    pub source: Source,
    /// Whether it should have been replaced by now.
    pub stale: bool,
    /// How long ago it was made, as far as its store knows.
    pub age: Option<Duration>,
    /// How much longer it may be served, stale or not.
    pub ttl: Ttl,
}

/// Where a value was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Source {
    /// In a tier: its place, 0 for the first.
    Tier(usize),
    /// It was loaded, for this caller or for one that it waited with.
    Loaded,
    /// Nowhere: no tier has it, and nothing was loaded.
    Nowhere,
}

impl<V> Outcome<V> {
    pub(crate) fn nowhere() -> Self {
        Self { value: None, source: Source::Nowhere, stale: false, age: None, ttl: Ttl::Never }
    }
}

impl<V> fmt::Debug for Outcome<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("found", &self.value.is_some())
            .field("source", &self.source)
            .field("stale", &self.stale)
            .field("age", &self.age)
            .field("ttl", &self.ttl)
            .finish()
    }
}
