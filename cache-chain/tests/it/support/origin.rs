//! A loader that counts its calls.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use cache_core::testkit::Gate;

/// A loader that counts its calls, waits at a gate, and brings what it is told to.
#[derive(Clone, Default)]
pub(crate) struct Origin {
    pub(crate) calls: Arc<AtomicUsize>,
    pub(crate) gate: Gate,
}

pub(crate) type Loading<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Origin {
    pub(crate) fn open() -> Self {
        let origin = Self::default();
        origin.gate.open();
        origin
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// Returns a loader that brings this.
    pub(crate) fn loads<T: Send + 'static>(&self, outcome: T) -> impl FnOnce() -> Loading<T> + Send + use<T> {
        let origin = self.clone();
        move || {
            Box::pin(async move {
                origin.calls.fetch_add(1, SeqCst);
                origin.gate.passed().await;
                Ok(outcome)
            })
        }
    }
}
