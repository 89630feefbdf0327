//! How many rows are removed without a long lock: in batches.

use std::time::Duration;

use cache_core::Result;

use crate::{
    call::{Mode, Work},
    database::Database,
    key_locks::KeyLocks,
    pool::Session,
    rows::Rows,
};

/// How many rows a batch removes.
const BATCH: usize = 500;

struct Batch<'a> {
    rows: &'a Rows,
    expired: bool,
    /// Whether it waits for what is being inserted.
    waits: bool,
}

impl Work for Batch<'_> {
    /// Whether there may be more.
    type Output = bool;

    fn mode(&self) -> Mode {
        // What has expired may go at any time.
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

/// Removes every row of the namespace, each batch before a deadline of its own.
///
/// Waits first for the writes that have begun before. A row that comes later belongs to a writer who began after the tiers
/// below were cleared.
pub(crate) async fn clear(database: &Database, deadline: Duration, rows: &Rows) -> Result<()> {
    let mut waits = true;
    while database.run(deadline, &Batch { rows, expired: false, waits }).await? {
        waits = false;
    }
    Ok(())
}

/// Removes a batch of what has expired, in all namespaces of the table; whether there may be more.
pub(crate) async fn sweep(database: &Database, deadline: Duration, rows: &Rows) -> Result<bool> {
    database.run(deadline, &Batch { rows, expired: true, waits: false }).await
}
