//! The circuit breaker of one node of a cluster.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use cache_core::{Result, backend::lock};
use redis::ConnectionAddr;
use tokio::time::{Duration, Instant};

use super::error;

/// Keeps calls off a node that does not answer, so that they do not all wait for their timeout. The
/// circuit breaker of a chain knows only the cluster as a whole, of which one node is a part.
#[derive(Default)]
pub(crate) struct NodeBreaker {
    /// The number of failures in a row.
    failures: AtomicU32,
    /// When the next call is let through, if too many have failed.
    next: Mutex<Option<Instant>>,
}

/// The number of failures in a row from which on calls are refused.
const MAX_FAILURES: u32 = 5;

/// The time after which one call is let through again.
const PAUSE: Duration = Duration::from_secs(1);

impl NodeBreaker {
    /// Lets a call through.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if the last calls have failed.
    pub(crate) fn admit(&self, address: &ConnectionAddr) -> Result<()> {
        if self.failures.load(Relaxed) < MAX_FAILURES {
            return Ok(());
        }
        let mut next = lock(&self.next);
        if next.is_some_and(|next| Instant::now() < next) {
            return Err(error::not_answering(address, PAUSE));
        }
        *next = Some(Instant::now() + PAUSE);
        Ok(())
    }

    /// Notes that the node has not answered.
    pub(super) fn failed(&self) {
        if self.failures.fetch_add(1, Relaxed).saturating_add(1) >= MAX_FAILURES {
            *lock(&self.next) = Some(Instant::now() + PAUSE);
        }
    }

    /// Notes that the node has answered.
    pub(super) fn answered(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.reset();
        }
    }

    /// Forgets the failures, because the node is another one now: it has restarted or been promoted.
    pub(super) fn reset(&self) {
        self.failures.store(0, Relaxed);
        *lock(&self.next) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(breaker: &NodeBreaker) -> Result<()> {
        breaker.admit(&ConnectionAddr::Tcp("node.example".to_owned(), 7000))
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_at_a_time_is_let_through_to_a_node_that_does_not_answer() {
        let breaker = NodeBreaker::default();
        for _ in 0..MAX_FAILURES {
            admit(&breaker).unwrap();
            breaker.failed();
        }
        let error = admit(&breaker).unwrap_err();
        assert!(error.to_string().contains("node.example:7000"), "{error}");
        tokio::time::advance(PAUSE).await;
        admit(&breaker).unwrap();
        assert!(admit(&breaker).is_err(), "one call is enough");
        breaker.answered();
        admit(&breaker).unwrap();
        breaker.failed();
        admit(&breaker).unwrap();
    }
}
