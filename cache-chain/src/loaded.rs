//! What a loader brings.

use std::{error::Error as StdError, pin::Pin, time::Duration};

use cache_core::{Error, ErrorKind, Result, Ttl};

/// What a loader found, and how long to keep it.
///
/// A loader may return one of these, or a plain value, or an `Option`; see [`Load`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cache_chain::Loaded;
///
/// let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
/// let kept = Loaded::new("Ada").ttl(minute);
/// let absent = Loaded::<&str>::absent().ttl(second);
/// let passing = Loaded::new("only for who asked").uncached();
/// ```
#[derive(Clone)]
pub struct Loaded<V> {
    pub(crate) value: Option<V>,
    pub(crate) keep: Keep,
}

/// For how long to keep what was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    /// As the chain keeps such.
    Usually,
    For(Ttl),
    Not,
}

impl<V> Loaded<V> {
    /// A value.
    pub fn new(value: V) -> Self {
        Self { value: Some(value), keep: Keep::Usually }
    }

    /// That there is no value. It is remembered, for a short time unless a TTL is given; see
    /// [`ReadThrough::absent_ttl`](crate::ReadThrough::absent_ttl).
    pub fn absent() -> Self {
        Self { value: None, keep: Keep::Usually }
    }

    /// Keeps it this long. Zero is refused when it is loaded.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.keep = Keep::For(Ttl::After(ttl));
        self
    }

    /// Gives it to who waits for it and caches it nowhere. An older value of the key is removed from the tiers, so that the next
    /// caller loads again.
    pub fn uncached(mut self) -> Self {
        self.keep = Keep::Not;
        self
    }
}

/// Does not show the value.
impl<V> std::fmt::Debug for Loaded<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("absent", &self.value.is_none())
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

/// What a loader of values `V` may return, and what its caller gets then.
///
/// | the loader returns | the caller gets |
/// |---|---|
/// | `V` | `V` |
/// | `Option<V>`, where `None` is remembered as "absent" | `Option<V>` |
/// | [`Loaded<V>`] | `Option<V>` |
///
/// A caller whose loader returns a plain `V`, while another's has found that there is none, gets an error of kind
/// [`Absent`](ErrorKind::Absent).
pub trait Load<V> {
    /// What the caller gets.
    type Output;

    /// What was loaded.
    fn into_loaded(self) -> Loaded<V>;

    /// What the caller gets for what was found.
    ///
    /// # Errors
    ///
    /// If nothing was, and the caller expects something.
    fn output(found: Option<V>) -> Result<Self::Output>;
}

impl<V> Load<V> for V {
    type Output = V;

    fn into_loaded(self) -> Loaded<V> {
        Loaded::new(self)
    }

    fn output(found: Option<V>) -> Result<V> {
        found.ok_or_else(|| {
            let message = "the key is known to have no value; let the loader return an Option where that may be";
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

/// A loader whose types are erased.
pub(crate) type Loader<V> = Box<dyn FnOnce() -> Loading<V> + Send>;
pub(crate) type Loading<V> = Pin<Box<dyn Future<Output = Result<Loaded<V>>> + Send>>;

/// Erases a loader of one key.
pub(crate) fn loader<V, T, E, Fut>(load: impl FnOnce() -> Fut + Send + 'static) -> Loader<V>
where
    T: Load<V>,
    E: Into<Box<dyn StdError + Send + Sync>>,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
{
    Box::new(move || {
        let loading = load();
        Box::pin(async move { loading.await.map(Load::into_loaded).map_err(failed) })
    })
}

/// The error of a loader, for everybody who waits for it.
pub(crate) fn failed<E: Into<Box<dyn StdError + Send + Sync>>>(error: E) -> Error {
    Error::with_source(ErrorKind::Loader, "the loader failed", error)
}
