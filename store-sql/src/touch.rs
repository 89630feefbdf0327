//! Changes the lifetimes of entries: reads them and writes them again.

use cache_core::{
    Codec, Key, Lifetime, Moment, Result,
    backend::{Binding, Envelope, Life},
};

use crate::{
    database::{Mode, Session, Work},
    keyspace::Keyspace,
    read::open,
    table::{
        identity::Identity,
        rows::{NewRow, Rows},
        select::Select,
    },
};

pub(crate) async fn touch<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    key: &Key,
    lifetime: Lifetime,
    now: Moment,
) -> Result<bool> {
    let identities = [Identity::of(key)];
    let [identity] = &identities;
    let asked = keyspace.clock.now();
    let select = Select { rows: &keyspace.rows, identities: &identities, statement: Rows::select };
    let found = keyspace.run(&select).await?;
    let Some(row) = found.get(&identity.id).filter(|row| row.full_key == identity.full_key) else { return Ok(false) };
    let entry = match open(keyspace, envelope, key, row, asked)? {
        Some(entry) if !entry.is_absent() && !entry.is_stale(now) => entry.with_lifetime(lifetime),
        _ => return Ok(false),
    };
    let Some(head) = row.value.as_ref().and_then(|record| record.first_chunk::<COMPARED>()) else { return Ok(false) };
    let now = keyspace.read_now().await?;
    // The times in the record count from zero, which is the row's `written_at`.
    let Some(life) = Life::of_fill(&entry, now.local, now.database % 1000) else { return Ok(false) };
    let write_id = u64::from_le_bytes(head[Envelope::WRITE_ID].try_into().expect("eight bytes"));
    let record = envelope.seal_entry(Binding::new(key.as_bytes(), 0), &entry, life, write_id)?;
    let (written, millis) = (Some(now.database / 1000), life.ttl_millis());
    let row = NewRow { identity, value: Some(&record), write_id, written, millis };
    keyspace.run(&Rewrite { rows: &keyspace.rows, row, head }).await
}

/// The number of bytes of a record that are compared. The last four of them are the checksum of the
/// whole record.
const COMPARED: usize = 42;

/// Replaces the record of a live row that still begins with these bytes.
///
/// The write id alone would not do: it stays the same when a fill brings a newer value, which must
/// not be undone. It is harmless if this takes effect late, because it changes only this record.
struct Rewrite<'a> {
    rows: &'a Rows,
    row: NewRow<'a>,
    head: &'a [u8; COMPARED],
}

impl Work for Rewrite<'_> {
    /// `true` if the record was replaced.
    type Output = bool;

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<bool> {
        Ok(session.change(&self.rows.rewrite(&self.row, self.head)).await? > 0)
    }
}
