//! Removes many rows in batches, none of which holds its locks for long.

use std::time::Duration;

use cache_core::Result;

use crate::{
    database::{Database, Mode, Session, Work},
    dialect::key_locks::KeyLocks,
    table::rows::Rows,
};

/// The number of rows that a batch removes.
const BATCH: usize = 500;

struct RemoveBatch<'a> {
    rows: &'a Rows,
    /// `true` to remove the expired rows of all namespaces, instead of all rows of this namespace.
    expired: bool,
    /// `true` if the batch waits for insertions that are not committed yet.
    waits: bool,
}

impl Work for RemoveBatch<'_> {
    /// `true` if there may be more rows.
    type Output = bool;

    fn mode(&self) -> Mode {
        // Expired rows may be removed at any time.
        if self.expired { Mode::Single } else { Mode::Transaction }
    }

    fn locks(&self) -> KeyLocks {
        let mut locks = self.rows.key_locks();
        if self.waits {
            locks.remove_all();
        }
        locks
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<bool> {
        Ok(session.change(&self.rows.delete_some(self.expired, BATCH)).await? >= BATCH as u64)
    }
}

/// Removes all rows of the namespace. Each batch has its own timeout.
///
/// Waits first for the writes that have started before. A row that is added later belongs to a
/// writer that started after the tiers below were cleared.
pub(crate) async fn clear(database: &Database, timeout: Duration, rows: &Rows) -> Result<()> {
    let mut waits = true;
    while database.run(timeout, &RemoveBatch { rows, expired: false, waits }).await? {
        waits = false;
    }
    Ok(())
}

/// Removes one batch of expired rows, in all namespaces of the table. Returns `true` if there may
/// be more.
pub(crate) async fn sweep_batch(database: &Database, timeout: Duration, rows: &Rows) -> Result<bool> {
    database.run(timeout, &RemoveBatch { rows, expired: true, waits: false }).await
}
