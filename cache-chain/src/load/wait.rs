//! Waits of callers for loads.

use std::time::Duration;

use cache_core::{Error, ErrorKind};
use tokio::time::Instant;

use super::{LoadResult, Loader};
use crate::{
    flight::Waiter,
    util::{
        deadline::{Deadline, after},
        runtime::closed,
    },
};

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Waits for a load, at most for the soft timeout. After that the load goes on in the
    /// background.
    pub(super) async fn wait_for(&self, mut waiter: Waiter<LoadResult<V>>, deadline: Deadline) -> LoadResult<V> {
        waiter.begin_wait()?;
        let limit = deadline.share(1, self.settings.soft_timeout);
        self.wait_until((limit, after(limit)), waiter).await
    }

    /// Waits for a load until this moment, when `limit` has passed.
    pub(super) async fn wait_until(
        &self,
        (limit, until): (Duration, Instant),
        mut waiter: Waiter<LoadResult<V>>,
    ) -> LoadResult<V> {
        match self.reader.runtime.timeout_at(until, &mut waiter).await {
            Some(outcome) => LoadResult::clone(&*outcome?),
            None => Err(self.abandon(waiter, limit, until)),
        }
    }

    /// Stops waiting for a load, and returns the error for the caller.
    pub(super) fn abandon(&self, waiter: Waiter<LoadResult<V>>, limit: Duration, until: Instant) -> Error {
        if Instant::now() < until {
            // The timer was dropped with the runtime.
            return closed();
        }
        self.counters.abandoned.increment();
        waiter.leave_in_background();
        let message = format!("the load did not end within {limit:?}; it goes on in the background");
        Error::new(ErrorKind::Timeout, message)
    }
}
