//! The work of a call.

use super::pool::Session;
use crate::dialect::key_locks::KeyLocks;

/// The way in which work is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// The work only reads.
    Read,
    /// The work is one statement that writes, and it is harmless if it takes effect late, after the
    /// caller has gone.
    Single,
    /// The work is a transaction, even if it has only one statement.
    ///
    /// If the caller goes away before COMMIT, nothing takes effect later. If it goes away after
    /// COMMIT was sent, the locks remain, and later writes of the same keys wait for them. So no
    /// write takes effect after a later one.
    Transaction,
}

/// The work of a call on a connection. It may be run several times.
pub(crate) trait Work: Sync {
    type Output: Send;

    fn mode(&self) -> Mode;

    /// Returns the keys that a transaction may insert and remove.
    fn locks(&self) -> KeyLocks {
        KeyLocks::default()
    }

    fn run(&self, session: &mut Session) -> impl Future<Output = sqlx::Result<Self::Output>> + Send;
}
