//! What a loader returns.

use std::{error::Error as StdError, pin::Pin, time::Duration};

use cache_core::{Error, ErrorKind, Result};

/// The result of a loader, with a TTL of its own or an instruction not to cache it.
///
/// A loader may also return a plain value or an `Option`; see [`Load`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cache_chain::Loaded;
///
/// let cached_for_a_minute = Loaded::new("Ada").ttl(Duration::from_secs(60));
/// let absent_for_a_second = Loaded::<&str>::absent().ttl(Duration::from_secs(1));
/// let not_cached = Loaded::new("a partial answer").uncached();
/// ```
#[derive(Clone)]
pub struct Loaded<V> {
    pub(super) value: Option<V>,
    pub(super) policy: CachePolicy,
}

/// How a loaded value is cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CachePolicy {
    /// With the default TTL of the chain.
    Default,
    Ttl(Duration),
    Uncached,
}

impl<V> Loaded<V> {
    /// A value.
    pub fn new(value: V) -> Self {
        Self { value: Some(value), policy: CachePolicy::Default }
    }

    /// The news that the key has no value. It is cached for
    /// [`ReadThrough::negative_ttl`](crate::ReadThrough::negative_ttl), unless it has a TTL of its
    /// own.
    pub fn absent() -> Self {
        Self { value: None, policy: CachePolicy::Default }
    }

    /// Sets the TTL. With a TTL of zero the load fails with
    /// [`InvalidInput`](ErrorKind::InvalidInput).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.policy = CachePolicy::Ttl(ttl);
        self
    }

    /// Returns it to the callers that wait for it and does not cache it. An older value of the key
    /// is removed from the tiers, so that the next caller loads again.
    pub fn uncached(mut self) -> Self {
        self.policy = CachePolicy::Uncached;
        self
    }
}

/// Does not show the value.
impl<V> std::fmt::Debug for Loaded<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("is_absent", &self.value.is_none())
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// What a loader of values `V` may return, and what the caller of
/// [`get_or_load`](crate::ChainCache::get_or_load) gets.
///
/// | the loader returns | the caller gets |
/// |---|---|
/// | `V` | `V` |
/// | `Option<V>`; `None` is cached as absent | `Option<V>` |
/// | [`Loaded<V>`] | `Option<V>` |
///
/// If the caller's loader returns a plain `V` and the key is cached as absent, the caller gets an
/// error of kind [`Absent`](ErrorKind::Absent).
#[diagnostic::on_unimplemented(
    message = "a loader of a cache of `{V}` cannot return `{Self}`",
    label = "expected `{V}`, `Option<{V}>` or `Loaded<{V}>`",
    note = "convert the value in the loader, or change the value type of the cache"
)]
pub trait Load<V> {
    /// What the caller gets.
    type Output;

    /// Converts it into what is cached.
    fn into_loaded(self) -> Loaded<V>;

    /// Converts the cached value into what the caller gets.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`Absent`](ErrorKind::Absent) if there is no value and the caller
    /// expects one.
    fn output(found: Option<V>) -> Result<Self::Output>;
}

impl<V> Load<V> for V {
    type Output = V;

    fn into_loaded(self) -> Loaded<V> {
        Loaded::new(self)
    }

    fn output(found: Option<V>) -> Result<V> {
        found.ok_or_else(|| {
            let message = "the key is cached as absent; return an `Option` from the loader to get `None` instead";
            Error::new(ErrorKind::Absent, message)
        })
    }
}

impl<V> Load<V> for Option<V> {
    type Output = Self;

    fn into_loaded(self) -> Loaded<V> {
        self.map_or_else(Loaded::absent, Loaded::new)
    }

    fn output(found: Self) -> Result<Self> {
        Ok(found)
    }
}

impl<V> Load<V> for Loaded<V> {
    type Output = Option<V>;

    fn into_loaded(self) -> Self {
        self
    }

    fn output(found: Option<V>) -> Result<Option<V>> {
        Ok(found)
    }
}

/// A loader of one key as an object.
pub(crate) type LoadFn<V> = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<Loaded<V>>> + Send>> + Send>;

/// Boxes a loader of one key.
pub(crate) fn load_fn<V, T, E, Fut>(load: impl FnOnce() -> Fut + Send + 'static) -> LoadFn<V>
where
    T: Load<V>,
    E: Into<Box<dyn StdError + Send + Sync>>,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
{
    Box::new(move || {
        let loading = load();
        Box::pin(async move { loading.await.map(Load::into_loaded).map_err(loader_error) })
    })
}

/// The error of a loader, for all callers that wait for it.
pub(super) fn loader_error<E: Into<Box<dyn StdError + Send + Sync>>>(error: E) -> Error {
    Error::with_source(ErrorKind::Loader, "the loader failed", error)
}
