//! The result of a detailed read.

use std::{fmt, sync::Arc, time::Duration};

use cache_core::Ttl;

use crate::stats::CoherenceStats;

/// The result of a detailed read; see
/// [`ChainCache::get_detailed`](crate::ChainCache::get_detailed).
///
/// `Debug` does not show the value.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{ChainCache, Source, Ttl, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let users: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
///     users.set_with_ttl(42, "Ada".to_owned(), Duration::from_secs(60)).await?;
///
///     let found = users.get_detailed(42).await?;
///     assert_eq!(found.value.as_deref(), Some("Ada"));
///     assert_eq!(found.source, Source::Tier("L1 stretto".into()));
///     assert!(!found.stale && found.age < Some(Duration::from_secs(60)));
///     assert!(found.ttl <= Ttl::After(Duration::from_secs(60)));
///     Ok(())
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found<V> {
    /// The value, `None` if the key has none.
    pub value: Option<V>,
    /// The tier or the loader that the value came from.
    pub source: Source,
    /// `true` if the value has outlived its TTL and is served within
    /// [`ReadThrough::stale_for`](crate::ReadThrough::stale_for).
    pub stale: bool,
    /// `true` if the value could not be checked because the shared tier cannot be reached, and is
    /// served within [`Coherence::grace`](crate::Coherence::grace).
    pub in_grace: bool,
    /// The time since the value was loaded or set, `None` if the store does not keep it.
    pub age: Option<Duration>,
    /// The remaining time for which the value may be served, fresh or stale.
    /// [`get_with_ttl`](crate::ChainCache::get_with_ttl) returns the time for which it is fresh.
    pub ttl: Ttl,
    /// The statistics of the coherence of the first tiers just after the read, `None` for a chain
    /// whose shared tier has no invalidation stream.
    pub coherence: Option<Box<CoherenceStats>>,
}

/// The tier or the loader that a value came from.
///
/// # Examples
///
/// ```
/// use cache_chain::{ChainCache, Source, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let users: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
///     assert_eq!(users.get_detailed(42).await?.source, Source::Nowhere);
///
///     let load = || async { Ok::<_, std::io::Error>("Ada".to_owned()) };
///     let sources = [
///         users.get_or_load_detailed(42, load).await?.source,
///         users.get_or_load_detailed(42, load).await?.source,
///     ];
///     assert_eq!(sources, [Source::Loaded, Source::Tier("L1 stretto".into())]);
///     assert_eq!(sources.map(|source| source.to_string()), ["a loader", "L1 stretto"]);
///     Ok(())
/// }
/// ```
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
        Self {
            value: None,
            source: Source::Nowhere,
            stale: false,
            in_grace: false,
            age: None,
            ttl: Ttl::Never,
            coherence: None,
        }
    }
}

impl<V> fmt::Debug for Found<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("is_some", &self.value.is_some())
            .field("source", &self.source)
            .field("stale", &self.stale)
            .field("in_grace", &self.in_grace)
            .field("age", &self.age)
            .field("ttl", &self.ttl)
            .field("coherence", &self.coherence)
            .finish()
    }
}

/// Writes the name of the tier, "a loader" or "nowhere".
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tier(name) => name,
            Self::Loaded => "a loader",
            Self::Nowhere => "nowhere",
        })
    }
}
