//! The argument of a loader and its result.

use std::{error::Error as StdError, fmt, pin::Pin, sync::Arc, time::Duration};

use cache_core::{Entry, Error, ErrorKind, Key, Moment, Result};

/// The key to load and the previous value, for the loaders of
/// [`get_or_load_with`](crate::ChainCache::get_or_load_with), which has an example.
///
/// `Debug` does not show the value.
#[derive(Clone)]
#[non_exhaustive]
pub struct LoadContext<V> {
    /// The key.
    pub key: Key,
    /// The previous value, if a tier still has it: a stale one, or one that is loaded again before
    /// it is stale.
    pub previous: Option<Previous<V>>,
}

/// The value that a load is to replace.
///
/// `Debug` does not show the value.
#[derive(Clone)]
#[non_exhaustive]
pub struct Previous<V> {
    /// The value.
    pub value: V,
    /// The time since the value was loaded, set or found unmodified; `None` if the store does not
    /// keep it.
    pub age: Option<Duration>,
    /// The validator that the loader returned with the value; see [`Loaded::validator`].
    pub validator: Option<Arc<str>>,
}

impl<V: Clone> LoadContext<V> {
    pub(super) fn new(key: &Key, previous: Option<&Entry<V>>, now: Moment) -> Self {
        let previous = previous.and_then(|entry| {
            let age = entry.created().map(|created| now.since(created));
            Some(Previous { value: entry.value()?.clone(), age, validator: entry.validator().cloned() })
        });
        Self { key: key.clone(), previous }
    }
}

impl<V> fmt::Debug for LoadContext<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadContext").field("key", &self.key).field("previous", &self.previous).finish()
    }
}

impl<V> fmt::Debug for Previous<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Previous").field("age", &self.age).finish_non_exhaustive()
    }
}

/// The result of a loader, with a TTL of its own or an instruction not to cache it.
///
/// A loader may also return a plain value or an `Option`; see [`Load`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_chain::{ChainCache, Loaded, stretto::StrettoStore};
///
/// /// Your query. A user who does not exist is looked for again after a second.
/// async fn find_user(id: u64) -> std::io::Result<Loaded<String>> {
///     Ok(match id {
///         42 => Loaded::new("Ada".to_owned()).ttl(Duration::from_secs(60)),
///         43 => Loaded::new("a partial answer".to_owned()).uncached(),
///         _ => Loaded::absent().ttl(Duration::from_secs(1)),
///     })
/// }
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let users: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
///     assert_eq!(users.get_or_load(42, || find_user(42)).await?.as_deref(), Some("Ada"));
///     assert_eq!(users.get_or_load(43, || find_user(43)).await?.as_deref(), Some("a partial answer"));
///     assert_eq!(users.get_or_load(44, || find_user(44)).await?, None);
///
///     // Only the first is in the cache.
///     assert!(users.contains(42).await? && !users.contains(43).await? && !users.contains(44).await?);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Loaded<V> {
    pub(super) news: News<V>,
    pub(super) policy: CachePolicy,
    pub(super) validator: Option<Arc<str>>,
}

/// The finding of a loader about its key.
#[derive(Clone)]
pub(super) enum News<V> {
    Value(V),
    Absent,
    /// The previous value is still right.
    NotModified,
}

/// The caching of a loaded value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CachePolicy {
    /// With the default TTL of the chain.
    Default,
    Ttl(Duration),
    Uncached,
}

impl<V> Loaded<V> {
    /// Creates the result of a loader that found this value.
    pub fn new(value: V) -> Self {
        Self::of(News::Value(value))
    }

    /// Creates the result of a loader that found no value. That is cached for
    /// [`ReadThrough::negative_ttl`](crate::ReadThrough::negative_ttl), unless the result has a TTL
    /// of its own.
    pub fn absent() -> Self {
        Self::of(News::Absent)
    }

    /// Creates the result of a loader that found the [previous value](LoadContext::previous)
    /// unmodified, as after `304 Not Modified` of HTTP. The value and its validator stay, with a
    /// new TTL, and the age counts from now on.
    ///
    /// The load fails with [`InvalidInput`](ErrorKind::InvalidInput) if there is no previous value.
    pub fn not_modified() -> Self {
        Self::of(News::NotModified)
    }

    fn of(news: News<V>) -> Self {
        Self { news, policy: CachePolicy::Default, validator: None }
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

    /// Stores a validator with the value, such as an `ETag` or a `Last-Modified` of HTTP (RFC 9110,
    /// section 8.8). The next load of the key gets it in [`Previous::validator`].
    ///
    /// It has 1 to 1,024 bytes; otherwise the load fails with
    /// [`InvalidInput`](ErrorKind::InvalidInput). A store that keeps plain values does not keep it.
    pub fn validator(mut self, validator: impl Into<Arc<str>>) -> Self {
        self.validator = Some(validator.into());
        self
    }
}

/// Does not show the value.
impl<V> fmt::Debug for Loaded<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let news = match self.news {
            News::Value(_) => "value",
            News::Absent => "absent",
            News::NotModified => "not modified",
        };
        f.debug_struct("Loaded").field("news", &news).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// A type that a loader of values `V` may return. It determines the result of
/// [`get_or_load`](crate::ChainCache::get_or_load).
///
/// | the loader returns | the caller gets |
/// |---|---|
/// | `V` | `V` |
/// | `Option<V>`; `None` is cached as absent | `Option<V>` |
/// | [`Loaded<V>`] | `Option<V>` |
///
/// If the caller's loader returns a plain `V` and the key is cached as absent, the caller gets an
/// error of kind [`Absent`](ErrorKind::Absent).
///
/// # Examples
///
/// ```
/// use std::{io, time::Duration};
///
/// use cache_chain::{ChainCache, Loaded, stretto::StrettoStore};
///
/// #[tokio::main]
/// async fn main() -> cache_chain::Result<()> {
///     let users: ChainCache<String> = ChainCache::builder().tier(StrettoStore::new(10_000)?).build()?;
///
///     let value: String = users.get_or_load(1, || async { Ok::<_, io::Error>("Ada".to_owned()) }).await?;
///     assert_eq!(value, "Ada");
///
///     let option: Option<String> = users.get_or_load(2, || async { Ok::<Option<String>, io::Error>(None) }).await?;
///     assert_eq!(option, None);
///
///     let brief = || async { Ok::<_, io::Error>(Loaded::new("Bo".to_owned()).ttl(Duration::from_secs(1))) };
///     let with_ttl: Option<String> = users.get_or_load(3, brief).await?;
///     assert_eq!(with_ttl.as_deref(), Some("Bo"));
///     Ok(())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a loader of a cache of `{V}` cannot return `{Self}`",
    label = "expected `{V}`, `Option<{V}>` or `Loaded<{V}>`",
    note = "convert the value in the loader, or change the value type of the cache"
)]
pub trait Load<V> {
    /// The type that the caller gets.
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
pub(crate) type LoadFn<V> =
    Box<dyn FnOnce(LoadContext<V>) -> Pin<Box<dyn Future<Output = Result<Loaded<V>>> + Send>> + Send>;

/// Boxes a loader of one key.
pub(crate) fn load_fn<V, T, E, Fut>(load: impl FnOnce(LoadContext<V>) -> Fut + Send + 'static) -> LoadFn<V>
where
    T: Load<V>,
    E: Into<Box<dyn StdError + Send + Sync>>,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
{
    Box::new(move |context| {
        let loading = load(context);
        Box::pin(async move { loading.await.map(Load::into_loaded).map_err(loader_error) })
    })
}

/// The error of a loader, for all callers that wait for it.
pub(super) fn loader_error<E: Into<Box<dyn StdError + Send + Sync>>>(error: E) -> Error {
    Error::with_source(ErrorKind::Loader, "the loader failed", error)
}
