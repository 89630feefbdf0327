//! The task that removes what has expired.

use std::{sync::Arc, time::Duration};

use cache_core::backend::write_id;
use tokio::{task::AbortHandle, time::sleep};

use crate::{clear, database::Database, rows::Rows};

/// The task, which ends with this value.
pub(crate) struct Sweeper(AbortHandle);

impl Sweeper {
    /// Starts to sweep, some time within every interval: several processes should not all sweep at once.
    pub(crate) fn start(database: Database, deadline: Duration, rows: Arc<Rows>, interval: Duration) -> Self {
        let task = tokio::spawn(async move {
            loop {
                sleep(jittered(interval)).await;
                // An error has nobody to be told; the next round is another attempt.
                while clear::sweep(&database, deadline, &rows).await.unwrap_or(false) {
                    sleep(PAUSE).await;
                }
            }
        });
        Self(task.abort_handle())
    }
}

/// Between two batches others have their turn.
const PAUSE: Duration = Duration::from_millis(10);

/// Between a half and the whole of it.
fn jittered(interval: Duration) -> Duration {
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
        let pauses: Vec<Duration> = (0..1000).map(|_| jittered(minute)).collect();
        assert!(pauses.iter().all(|pause| (minute / 2..minute).contains(pause)));
        assert!(pauses.iter().max() > pauses.iter().min());
    }
}
