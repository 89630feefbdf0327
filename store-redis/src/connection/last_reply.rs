//! When a connection has last replied.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_core::backend::lock;
use tokio::time::Instant;

/// The time of the last reply on a link, or of its replacement.
#[derive(Clone)]
pub(super) struct LastReply(Arc<Mutex<Instant>>);

impl LastReply {
    pub(super) fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn note(&self) {
        *lock(&self.0) = Instant::now();
    }

    pub(super) fn elapsed(&self) -> Duration {
        lock(&self.0).elapsed()
    }
}
