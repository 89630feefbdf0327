//! Takes entries: removes and returns them.

use cache_core::{Codec, Entry, Key, Result, backend::Envelope};

use crate::{
    database::{Mode, Session, Work},
    dialect::{key_locks::KeyLocks, statement::Row},
    keyspace::Keyspace,
    read::open,
    table::{identity::Identity, rows::Rows},
};

pub(crate) async fn take<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    key: &Key,
) -> Result<Option<Entry<V>>> {
    let identity = Identity::of(key);
    let asked = keyspace.clock.now();
    match keyspace.run(&Take { rows: &keyspace.rows, identity: &identity }).await? {
        Some(row) if row.full_key == identity.full_key => open(keyspace, envelope, key, &row, asked),
        _ => Ok(None),
    }
}

/// Removes the row of a key and returns it, be it a value or a marker, live or expired.
struct Take<'a> {
    rows: &'a Rows,
    identity: &'a Identity,
}

impl Work for Take<'_> {
    type Output = Option<Row>;

    fn mode(&self) -> Mode {
        Mode::Transaction
    }

    fn locks(&self) -> KeyLocks {
        let mut locks = self.rows.key_locks();
        locks.remove(&self.identity.id);
        locks
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Option<Row>> {
        let id = [&self.identity.id[..]];
        let row = session.rows(&self.rows.lock(&id)).await?.pop();
        // If there is no row, nothing is locked, and a row that has come since was written by a
        // later call. So nothing is removed that is not returned.
        if row.is_some() {
            session.change(&self.rows.delete(&id)).await?;
        }
        Ok(row)
    }
}
