//! Errors, by kind.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc};

/// The result of a cache operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// An error of a cache, a store or a codec.
///
/// [`kind`](Self::kind) tells callers how to act on it, and [`source`](StdError::source) is its
/// cause. `Display` describes the failure and, if there is one, the remedy; it does not repeat the
/// source. The alternate form, `{:#}`, appends the sources, like that of `anyhow`. Neither form,
/// nor `Debug`, shows a value or a credential. A clone shares the same error, because concurrent
/// callers may wait for one operation.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::{DelegateCache, Error, ErrorKind};
/// use store_stretto::StrettoStore;
///
/// /// Returns `true` for an error that may be gone at the next attempt.
/// fn is_transient(error: &Error) -> bool {
///     matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable)
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> cache_core::Result<()> {
///     let users = DelegateCache::new(StrettoStore::new(10_000)?);
///     let error = users.set_with_ttl(42, "Ada".to_owned(), Duration::ZERO).await.unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::InvalidInput);
///     assert!(!is_transient(&error));
///     eprintln!("cannot cache the user: {error:#}"); // with the sources
///     Ok(())
/// }
/// ```
#[derive(Clone, thiserror::Error)]
#[error(transparent)]
pub struct Error(Arc<Inner>);

#[derive(Debug, thiserror::Error)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    #[source]
    source: Option<Source>,
    failures: Box<[Failure]>,
    will_be_repaired: bool,
}

/// Writes the message and, in the alternate form, the sources.
impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut source = self.source().filter(|_| f.alternate());
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// The kind of an [`Error`]. Each calls for a different reaction of the caller.
///
/// [`Error`] has an example. New kinds may be added, so a `match` needs a `_` arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's input cannot be used: an empty key, a zero TTL, a wrong URL. Nothing was read
    /// or written.
    InvalidInput,
    /// The stored bytes are not a value of this type: they have another codec or schema, or are
    /// corrupt. Or the value cannot be encoded. A chain counts the former and treats it as a miss.
    Codec,
    /// The backend could not be reached or dropped the connection. The outcome of a write is
    /// unknown.
    Unavailable,
    /// The backend did not answer in time. The outcome of a write is unknown.
    Timeout,
    /// The backend refused the write because it has no room, in memory or on disk.
    Full,
    /// The backend accepts no writes at present, for example because it is a replica.
    ReadOnly,
    /// The backend refused the credentials, or a permission is missing.
    Denied,
    /// The cache was shut down, or its runtime has ended.
    Closed,
    /// Several parts of one operation failed; see [`Error::failures`].
    Partial,
    /// The loader of the application failed. The source is the error of the loader; see
    /// [`Error::source_as`].
    Loader,
    /// The key is cached as absent, and the caller's loader returns plain values, not an `Option`.
    Absent,
    /// Code of the application panicked: a loader, or a value's `Clone`.
    Panicked,
    /// Loads wait for each other in a cycle: a loader reads a key whose loader, directly or through
    /// others, waits for this one. The message names the keys.
    Cycle,
    /// Any other error of a backend.
    Backend,
}

/// The failure of one tier in an operation on several tiers.
#[derive(Clone, Debug)]
pub struct Failure {
    name: String,
    error: Error,
}

impl Failure {
    /// Creates the failure of the tier of this name.
    pub fn new(name: impl Into<String>, error: Error) -> Self {
        Self { name: name.into(), error }
    }

    /// Returns the name of the tier that failed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the error of the tier.
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl Error {
    /// Creates an error of this kind with this message.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::build(kind, message.into(), None, Box::default())
    }

    /// Creates an error of this kind with this message, caused by `source`.
    pub fn with_source(kind: ErrorKind, message: impl Into<Cow<'static, str>>, source: impl Into<Source>) -> Self {
        Self::build(kind, message.into(), Some(source.into()), Box::default())
    }

    /// Creates the error of an operation on several tiers, some of which failed.
    ///
    /// The kind is that of the failures if they have the same kind, else [`ErrorKind::Partial`].
    /// The message names every tier that failed, with its error. The source is the source of the
    /// first failure that has one.
    pub fn from_failures(operation: &str, failures: Vec<Failure>) -> Self {
        let mut kinds = failures.iter().map(|failure| failure.error.kind());
        let first = kinds.next().unwrap_or(ErrorKind::Partial);
        let kind = if kinds.all(|kind| kind == first) { first } else { ErrorKind::Partial };
        let mut message = format!("{operation} failed in");
        for (at, Failure { name, error }) in failures.iter().enumerate() {
            message.push_str(if at == 0 { " " } else { "; " });
            message.push_str(name);
            message.push_str(": ");
            message.push_str(&error.0.message);
        }
        // The message of each failure is in the message of the error, and its source is not.
        let cause = failures.iter().find(|failure| failure.error.source().is_some());
        let source = cause.map(|failure| Source::from(Cause(failure.error.clone())));
        Self::build(kind, message.into(), source, failures.into())
    }

    fn build(kind: ErrorKind, message: Cow<'static, str>, source: Option<Source>, failures: Box<[Failure]>) -> Self {
        Self(Arc::new(Inner { kind, message, source, failures, will_be_repaired: false }))
    }

    /// Sets whether the failed parts of a write are repaired in the background. For the chain that
    /// creates this error.
    #[doc(hidden)]
    #[must_use]
    pub fn repaired_later(mut self, will_be_repaired: bool) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.will_be_repaired = will_be_repaired;
        }
        self
    }

    /// Returns `true` if this is the error of a write to a chain that the chain repairs: it does
    /// not read the written keys from the failed tiers, and deletes them there as soon as the tiers
    /// answer again, for as long as the process runs. An application that has changed its own data
    /// need neither undo that nor retry.
    ///
    /// Returns `false` if
    /// - the timeout of the chain has passed: the write goes on, and its result is not known;
    /// - the write had no effect, for example because a key cannot be used;
    /// - the failed tier is never repaired, such as an [`Origin`](crate::Origin).
    pub fn will_be_repaired(&self) -> bool {
        self.0.will_be_repaired
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the source if it has the type `E`, such as the error of a loader. All callers that
    /// waited for the load share it.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_core::{Error, ErrorKind};
    ///
    /// let lost = std::io::Error::from(std::io::ErrorKind::NotFound);
    /// let error = Error::with_source(ErrorKind::Loader, "the loader failed", lost);
    /// assert_eq!(error.source_as::<std::io::Error>().unwrap().kind(), std::io::ErrorKind::NotFound);
    /// assert!(error.source_as::<std::fmt::Error>().is_none());
    /// ```
    pub fn source_as<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.source.as_deref()?.downcast_ref()
    }

    /// Returns the failures of the tiers if this is the error of an operation on several tiers,
    /// else an empty slice.
    pub fn failures(&self) -> &[Failure] {
        &self.0.failures
    }
}

/// An error that displays the source of another one, whose message was shown already.
#[derive(Debug)]
struct Cause(Error);

impl Cause {
    fn of(&self) -> &(dyn StdError + 'static) {
        self.0.source().unwrap_or(&self.0)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.of(), f)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.of().source()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, source, failures, .. } = &*self.0;
        let mut out = f.debug_struct("Error");
        out.field("kind", kind).field("message", message);
        if let Some(source) = source {
            out.field("source", source);
        }
        if !failures.is_empty() {
            out.field("failures", failures);
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_send_sync_static_and_works_with_question_mark() {
        fn boxed() -> Result<(), Box<dyn StdError + Send + Sync + 'static>> {
            Err(Error::new(ErrorKind::Timeout, "late"))?;
            Ok(())
        }
        let error = boxed().unwrap_err();
        assert_eq!(error.downcast_ref::<Error>().unwrap().kind(), ErrorKind::Timeout);
    }

    #[test]
    fn display_does_not_repeat_the_source() {
        let error = Error::with_source(ErrorKind::Unavailable, "cannot reach the server", "connection refused");
        assert_eq!(error.to_string(), "cannot reach the server");
        assert_eq!(error.source().unwrap().to_string(), "connection refused");
        assert_eq!(format!("{error:#}"), "cannot reach the server: connection refused");
        let nested = Error::with_source(ErrorKind::Loader, "the loader failed", error);
        assert_eq!(format!("{nested:#}"), "the loader failed: cannot reach the server: connection refused");
    }

    #[test]
    fn failures_agree_on_a_kind_or_are_partial() {
        let late = || Error::new(ErrorKind::Timeout, "late");
        let full = || Error::new(ErrorKind::Full, "full");
        let same = Error::from_failures("set", vec![Failure::new("a", late()), Failure::new("b", late())]);
        assert_eq!(same.kind(), ErrorKind::Timeout);
        let mixed = Error::from_failures("set", vec![Failure::new("a", late()), Failure::new("b", full())]);
        assert_eq!(mixed.kind(), ErrorKind::Partial);
        assert_eq!(mixed.to_string(), "set failed in a: late; b: full");
        assert_eq!(mixed.failures()[1].name(), "b");
        assert_eq!(mixed.failures()[1].error().kind(), ErrorKind::Full);
    }
}
