//! The time that is left for one call.

use std::time::Duration;

use cache_core::{Error, ErrorKind, MAX_TTL, Result};
use tokio::time::Instant;

use super::runtime::{RuntimeHandle, closed};

/// Returns the moment after this time. A time that overflows the clock is cut.
pub(crate) fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now + MAX_TTL)
}

/// When one call must end, if its time is limited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<(Instant, Duration)>);

impl Deadline {
    /// The deadline of a call that begins now.
    pub(crate) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Some((Instant::now().checked_add(timeout)?, timeout))))
    }

    /// Returns this deadline, or the one in `timeout` from now if that is earlier.
    pub(crate) fn within(self, timeout: Duration) -> Self {
        match (self.0, Self::after(Some(timeout)).0) {
            (Some(this), Some(other)) => Self(Some(if other.0 < this.0 { other } else { this })),
            (this, other) => Self(this.or(other)),
        }
    }

    /// Returns the share of the next of `parts` equal parts of the time left, but at most `limit`.
    pub(crate) fn share(self, parts: usize, limit: Duration) -> Duration {
        match self.0 {
            None => limit,
            Some((until, _)) => {
                let left = until.saturating_duration_since(Instant::now());
                limit.min(left / u32::try_from(parts.max(1)).unwrap_or(u32::MAX))
            }
        }
    }

    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|(until, _)| until <= Instant::now())
    }

    /// Returns the result of the call, or an error of kind `Timeout` at the deadline.
    pub(crate) async fn bound<T>(
        self,
        runtime: &RuntimeHandle,
        call: impl Future<Output = Result<T>> + Unpin,
    ) -> Result<T> {
        let Some((until, timeout)) = self.0 else { return call.await };
        let result = runtime.timeout_at(until, call).await;
        // A timer that fires early was dropped with the runtime.
        result.unwrap_or_else(|| Err(if until <= Instant::now() { late(timeout) } else { closed() }))
    }
}

fn late(timeout: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the call did not end within the timeout of the chain, {timeout:?}"))
}
