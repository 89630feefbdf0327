//! Spans of `tracing` for what happens below the first tier. A chain makes none unless the
//! application has asked for them, and none for a hit in memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use cache_core::{Error, Key, Result};
use tracing::{Span, field, info_span};

/// Makes the spans of a chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Option<Arc<Settings>>);

#[derive(Debug)]
#[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "nothing makes spans"))]
struct Settings {
    cache: String,
    shows_keys: bool,
}

impl Spans {
    #[cfg(feature = "tracing")]
    pub(crate) fn new(cache: String, shows_keys: bool) -> Self {
        Self(Some(Arc::new(Settings { cache, shows_keys })))
    }

    /// The lookup of keys in the tiers.
    pub(crate) fn lookup(&self, keys: &[Key]) -> Active {
        self.start(keys, |cache, keys| {
            info_span!(
                target: "cache_chain",
                "cache_lookup",
                cache,
                keys,
                key = field::Empty,
                tier = field::Empty,
                outcome = field::Empty,
                error = field::Empty
            )
        })
    }

    /// A load of keys, with all that it takes: leases, the claim, the loader and the writes of what
    /// it has brought.
    pub(crate) fn load(&self, keys: &[Key]) -> Active {
        self.start(keys, |cache, keys| {
            info_span!(
                target: "cache_chain",
                "cache_load",
                cache,
                keys,
                key = field::Empty,
                outcome = field::Empty,
                error = field::Empty
            )
        })
    }

    /// A load that nobody waits for. It is not within the span of the caller, which would not end
    /// before it, but follows from that.
    pub(crate) fn background_load(&self, keys: &[Key]) -> Active {
        let load = self.start(keys, |cache, keys| {
            info_span!(
                target: "cache_chain",
                parent: None,
                "cache_load",
                cache,
                keys,
                key = field::Empty,
                outcome = field::Empty,
                error = field::Empty
            )
        });
        if let Some(span) = &load.0 {
            span.follows_from(Span::current());
        }
        load
    }

    /// A load of several keys whose number is known [later](Active::keys).
    pub(crate) fn batch_load(&self) -> Active {
        self.start(&[], |cache, _| {
            info_span!(
                target: "cache_chain",
                "cache_load",
                cache,
                keys = field::Empty,
                outcome = field::Empty,
                error = field::Empty
            )
        })
    }

    /// A write of keys to the tiers.
    pub(crate) fn write(&self, operation: &'static str, keys: &[Key]) -> Active {
        self.start(keys, |cache, keys| {
            info_span!(
                target: "cache_chain",
                "cache_write",
                cache,
                operation,
                keys,
                key = field::Empty,
                outcome = field::Empty,
                error = field::Empty
            )
        })
    }

    /// A call to the store of a tier that is not in this process.
    pub(crate) fn tier_call(&self, tier: &str, operation: &'static str, keys: usize) -> Active {
        self.start(&[], |cache, _| {
            info_span!(target: "cache_chain", "cache_tier_call", cache, tier, operation, keys, outcome = field::Empty, error = field::Empty)
        })
    }

    fn start(&self, keys: &[Key], span: impl FnOnce(&str, usize) -> Span) -> Active {
        let Some(settings) = &self.0 else { return Active(None) };
        let span = span(&settings.cache, keys.len());
        if let ([key], true) = (keys, settings.shows_keys) {
            span.record("key", field::display(key.as_bytes().escape_ascii()));
        }
        Active((!span.is_disabled()).then(|| Box::new(span)))
    }
}

/// A span that has started, or nothing. Boxed, so that the futures that hold it stay small.
#[derive(Debug)]
pub(crate) struct Active(Option<Box<Span>>);

impl Active {
    /// Runs a future within the span.
    pub(crate) fn enclose<F: Future + Unpin>(&self, future: F) -> Enclosed<'_, F> {
        Enclosed { span: self.0.as_deref(), future }
    }

    /// Runs a load within the span, and records how it has ended.
    pub(crate) async fn load<T>(&self, load: impl Future<Output = Result<T>> + Unpin) -> Result<T> {
        let loaded = self.enclose(load).await;
        self.outcome(loaded.as_ref(), "loaded");
        loaded
    }

    /// Records the number of keys.
    pub(crate) fn keys(&self, count: usize) {
        if let Some(span) = &self.0 {
            span.record("keys", count);
        }
    }

    /// Records the tier that had the entry.
    pub(crate) fn hit(&self, tier: &str) {
        if let Some(span) = &self.0 {
            span.record("tier", tier).record("outcome", "hit");
        }
    }

    /// Records how the work has ended.
    pub(crate) fn outcome<T>(&self, result: Result<&T, &Error>, ok: &'static str) {
        let Some(span) = &self.0 else { return };
        match result {
            Ok(_) => span.record("outcome", ok),
            Err(error) => span.record("outcome", "error").record("error", field::debug(error.kind())),
        };
    }
}

/// A future within a span. An async function would need room for it twice.
#[derive(Debug)]
pub(crate) struct Enclosed<'a, F> {
    span: Option<&'a Span>,
    future: F,
}

impl<F: Future + Unpin> Future for Enclosed<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _entered = self.span.map(Span::enter);
        Pin::new(&mut self.future).poll(context)
    }
}
