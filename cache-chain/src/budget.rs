//! What is left of the time that a call may take.

use std::time::Duration;

use cache_core::{Error, ErrorKind, MAX_TTL, Result};
use tokio::time::Instant;

use crate::runtime::{RuntimeHandle, closed};

/// The moment after this time, however long it is.
pub(crate) fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now + MAX_TTL)
}

/// The time of one call, if it is bounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget(Option<(Instant, Duration)>);

impl Budget {
    /// From now on.
    pub(crate) fn new(deadline: Option<Duration>) -> Self {
        Self(deadline.and_then(|deadline| Some((Instant::now().checked_add(deadline)?, deadline))))
    }

    /// The share of the next of `parts` that are still to come, but no more than `limit`.
    pub(crate) fn share(self, parts: usize, limit: Duration) -> Duration {
        match self.0 {
            None => limit,
            Some((until, _)) => {
                let left = until.saturating_duration_since(Instant::now());
                limit.min(left / u32::try_from(parts.max(1)).unwrap_or(u32::MAX))
            }
        }
    }

    /// Whether the time is up.
    pub(crate) fn is_spent(self) -> bool {
        self.0.is_some_and(|(until, _)| until <= Instant::now())
    }

    /// The result of the call, or an error of kind `Timeout` when the time is up.
    pub(crate) async fn bound<T>(self, runtime: &RuntimeHandle, call: impl Future<Output = Result<T>>) -> Result<T> {
        let Some((until, deadline)) = self.0 else { return call.await };
        let result = runtime.timeout_at(until, call).await;
        // A timer that fires early was dropped with the runtime.
        result.unwrap_or_else(|| Err(if until <= Instant::now() { late(deadline) } else { closed() }))
    }
}

/// The error of a call that took longer than its deadline.
pub(crate) fn late(deadline: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the call took longer than its deadline of {deadline:?}"))
}
