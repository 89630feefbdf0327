//! What the scenarios ask of a cache.

pub(crate) use crate::origin::{Load, Stop};

/// The key of every call; the scenarios need no other.
pub(crate) const KEY: &str = "k";

/// A value, or an error as the report shows it.
pub(crate) type Answer = Result<String, String>;

/// What an application does to a cache after it has changed its data.
#[derive(Clone, Copy)]
pub(crate) enum Write {
    Set(&'static str),
    Del,
    Clear,
}

/// A cache under test. A clone is the same cache.
pub(crate) trait Subject: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    /// Whether there is a tier below the first, which the caller supplies.
    const TIERED: bool;

    /// Caches whose first tiers are their own and empty, all over one lower tier, if there is one:
    /// also empty, and its reads pass by the stop once they have found a value. Called within a
    /// runtime.
    fn caches<const N: usize>(reads: &Stop) -> [Self; N];

    /// The value under [`KEY`]; the cache runs the load if it has none.
    fn load(&self, load: Load) -> impl Future<Output = Answer> + Send;

    fn write(&self, write: Write) -> impl Future<Output = Result<(), String>> + Send;

    /// Returns once the cache has done what it does behind its callers' backs.
    fn settled(&self) -> impl Future<Output = Result<(), String>> + Send {
        async { Ok(()) }
    }
}
