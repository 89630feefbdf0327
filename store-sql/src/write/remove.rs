//! The transaction that removes keys.

use crate::{
    database::{Mode, Session, Work},
    dialect::key_locks::KeyLocks,
    table::{
        identity::Identity,
        rows::{MAX_IDS, Rows},
    },
};

/// Removes keys.
pub(super) struct Remove<'a> {
    pub(super) rows: &'a Rows,
    pub(super) identities: &'a [Identity],
}

impl Work for Remove<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Transaction
    }

    fn locks(&self) -> KeyLocks {
        let mut locks = self.rows.key_locks();
        self.identities.iter().for_each(|identity| locks.remove(&identity.id));
        locks
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        let mut ids: Vec<&[u8]> = self.identities.iter().map(|identity| &identity.id[..]).collect();
        ids.sort_unstable();
        for some in ids.chunks(MAX_IDS) {
            session.change(&self.rows.delete(some)).await?;
        }
        Ok(())
    }
}
