//! The background task that removes expired rows.

use std::{sync::Arc, time::Duration};

use cache_core::backend::write_id;
use tokio::{task::AbortHandle, time::sleep};

use crate::{clear::sweep_batch, database::Database, table::rows::Rows};

/// A handle to the task. Dropping it ends the task.
pub(crate) struct Sweeper(AbortHandle);

impl Sweeper {
    /// Starts the task. It sweeps at a random time in each interval, so that several processes do
    /// not all sweep at once.
    pub(crate) fn start(database: Database, timeout: Duration, rows: Arc<Rows>, interval: Duration) -> Self {
        let task = tokio::spawn(async move {
            loop {
                sleep(add_jitter(interval)).await;
                // An error is ignored; the next round tries again.
                while sweep_batch(&database, timeout, &rows).await.unwrap_or(false) {
                    sleep(PAUSE).await;
                }
            }
        });
        Self(task.abort_handle())
    }
}

/// The pause between two batches, in which other transactions can run.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns a random duration between a half and the whole of the interval.
fn add_jitter(interval: Duration) -> Duration {
    let part = u32::try_from(write_id::next() % 1024).unwrap_or_default();
    interval / 2 + interval / 2 * part / 1024
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_is_half_an_interval_at_least_and_one_at_most() {
        let minute = Duration::from_mins(1);
        let pauses: Vec<Duration> = (0..1000).map(|_| add_jitter(minute)).collect();
        assert!(pauses.iter().all(|pause| (minute / 2..minute).contains(pause)));
        assert!(pauses.iter().max() > pauses.iter().min());
    }
}
