//! Reads entries.

use std::time::Duration;

use cache_core::{
    Codec, Entry, Expiry, Key, Moment, Result, Ttl,
    backend::{ETag, Envelope, Opened},
};

use crate::{
    database::{Mode, Session, Work},
    dialect::statement::Row,
    keyspace::Keyspace,
    table::{
        identity::Identity,
        rows::{AHEAD_MILLIS, Rows},
        select::{Found, Select},
    },
};

/// The size of a value in bytes from which on a check reads its head first.
const LARGE: usize = 1024;

pub(crate) async fn read<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    keys: &[Key],
) -> Result<Vec<Result<Option<Entry<V>>>>> {
    let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
    let asked = keyspace.clock.now();
    let select = Select { rows: &keyspace.rows, identities: &identities, statement: Rows::select };
    let found = keyspace.run(&select).await?;
    let entry = |(key, identity): (&Key, &Identity)| match found.get(&identity.id) {
        Some(row) if row.full_key == identity.full_key => open(keyspace, envelope, key, row, asked),
        _ => Ok(None),
    };
    let entries = keys.iter().zip(&identities).map(entry).collect();
    delete_future_rows(keyspace, &found).await;
    Ok(entries)
}

/// Returns the entry in a row that was read at `asked`, or `None` if the row is a marker or has
/// expired.
pub(crate) fn open<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    key: &Key,
    row: &Row,
    asked: Moment,
) -> Result<Option<Entry<V>>> {
    let Some(bytes) = &row.value else { return Ok(None) };
    let Opened::Record(record) = envelope.open(key.as_bytes(), bytes)? else { return Ok(None) };
    // The life is counted from before the request, because the entry ages while the reply is on its
    // way. One millisecond is added because the database's clock is read in whole ones. The times
    // in the record count from zero.
    let millis = |millis: i64| u64::try_from(millis).unwrap_or(0);
    // The age of a row from the future is unknown. If its life has an end, it counts as expired.
    let elapsed = if is_future(row) { u64::MAX } else { row.elapsed.map_or(0, millis).saturating_add(1) };
    let remaining = row.number.map_or(Ttl::Never, |left| Ttl::After(Duration::from_millis(millis(left))));
    let entry = record.into_entry(asked, elapsed).expiring_by(Expiry::after(asked, remaining));
    let entry = entry.with_etag(etag_of(row, bytes.len() >= LARGE));
    Ok((!entry.is_expired(keyspace.clock.now())).then_some(entry))
}

/// Returns the version of the row, of which the first bytes of the value suffice. Another life is
/// another version, also if a program of the application has changed it.
pub(crate) fn etag_of(row: &Row, is_large: bool) -> Option<ETag> {
    let value = row.value.as_deref()?;
    let head = &value[..value.len().min(Envelope::MAX_HEAD)];
    let written_at = row.written_at.unwrap_or_default();
    // The statement has read the clock once.
    let life = row.number.map(|left| left.saturating_add(row.elapsed.unwrap_or_default()));
    let times = [written_at, life.unwrap_or(i64::MAX)].map(i64::to_le_bytes).concat();
    Some(ETag::new(&[&times, head].concat(), is_large))
}

/// Returns `true` if a row was written later than now, which means that the clock was set back.
pub(crate) fn is_future(row: &Row) -> bool {
    row.elapsed.is_some_and(|elapsed| elapsed < -AHEAD_MILLIS)
}

/// Deletes the rows that expire and were written before the clock was set back. They would be
/// served once the clock has reached their time again. A failure changes no result: these rows are
/// misses already, and the next reader tries again.
async fn delete_future_rows(keyspace: &Keyspace, found: &Found) {
    let future = found.values().filter(|row| row.number.is_some() && is_future(row));
    let future: Vec<(&[u8], i64)> = future.filter_map(|row| Some((&row.id[..], row.written_at?))).collect();
    if !future.is_empty() {
        let _ = keyspace.run(&DeleteFuture { rows: &keyspace.rows, future: &future }).await;
    }
}

/// Deletes rows that were written before the clock was set back. It is harmless if it takes effect
/// late, because it deletes only these rows.
struct DeleteFuture<'a> {
    rows: &'a Rows,
    /// The id of each row, and the time at which it was written.
    future: &'a [(&'a [u8], i64)],
}

impl Work for DeleteFuture<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        for (id, written_at) in self.future {
            session.change(&self.rows.delete_future(id, *written_at)).await?;
        }
        Ok(())
    }
}
