//! Whether a node of a cluster answers.

use std::sync::Mutex;

use cache_core::{Result, backend::lock};
use tokio::time::{Duration, Instant};

use super::error;

/// Keeps calls off a node that does not answer, so that they do not all wait for their timeout. The
/// circuit breaker of a chain knows only the cluster as a whole, of which one node is a part.
#[derive(Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Default)]
struct State {
    /// The number of failures in a row.
    failures: u32,
    /// When the next call is let through, if too many have failed.
    next: Option<Instant>,
}

/// The number of failures in a row from which on calls are refused.
const MAX_FAILURES: u32 = 5;

/// The time after which one call is let through again.
const PAUSE: Duration = Duration::from_secs(1);

impl Health {
    /// Lets a call through.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if the last calls have failed.
    pub(super) fn enter(&self) -> Result<()> {
        let mut state = lock(&self.0);
        if state.next.is_some_and(|next| Instant::now() < next) {
            return Err(error::not_answering(PAUSE));
        }
        if state.failures >= MAX_FAILURES {
            state.next = Some(Instant::now() + PAUSE);
        }
        Ok(())
    }

    /// Notes that the node has not answered.
    pub(super) fn failed(&self) {
        let mut state = lock(&self.0);
        state.failures = state.failures.saturating_add(1);
        if state.failures >= MAX_FAILURES {
            state.next = Some(Instant::now() + PAUSE);
        }
    }

    /// Forgets failures, because the node is another one now: it has restarted or been promoted.
    pub(super) fn forget(&self) {
        *lock(&self.0) = State::default();
    }

    /// Notes that the node has answered.
    pub(super) fn answered(&self) {
        let mut state = lock(&self.0);
        if state.failures > 0 {
            *state = State::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_call_at_a_time_is_let_through_to_a_node_that_does_not_answer() {
        let health = Health::default();
        for _ in 0..MAX_FAILURES {
            health.enter().unwrap();
            health.failed();
        }
        assert!(health.enter().is_err());
        tokio::time::advance(PAUSE).await;
        health.enter().unwrap();
        assert!(health.enter().is_err(), "one call is enough");
        health.answered();
        health.enter().unwrap();
        health.failed();
        health.enter().unwrap();
    }
}
