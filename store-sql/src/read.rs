//! How entries are read.

use std::{collections::HashMap, time::Duration};

use cache_core::{Codec, Entry, Expiry, Key, Result, Ttl, backend::Opened};

use crate::{
    call::{Mode, Work},
    dialect::AHEAD_MILLIS,
    error,
    identity::Identity,
    pool::Session,
    rows::{IDS, Rows},
    statement::Row,
    store::Inner,
};

pub(crate) type Found = HashMap<Vec<u8>, Row>;

/// The live values of these keys.
pub(crate) struct Read<'a> {
    pub(crate) rows: &'a Rows,
    pub(crate) identities: &'a [Identity],
}

impl Work for Read<'_> {
    type Output = Found;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Found> {
        let mut found = Found::new();
        for some in self.identities.chunks(IDS) {
            let ids: Vec<&[u8]> = some.iter().map(|identity| &identity.id[..]).collect();
            collect(&mut found, session.rows(&self.rows.select(&ids)).await?);
        }
        Ok(found)
    }
}

/// Removes rows that were written before the clock was set back. It is harmless if it takes effect late: it removes just those.
struct RemoveFuture<'a> {
    rows: &'a Rows,
    /// The id and the time of writing of each.
    found: &'a [(&'a [u8], i64)],
}

impl Work for RemoveFuture<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        for (id, written_at) in self.found {
            session.change(&self.rows.delete_future(id, *written_at)).await?;
        }
        Ok(())
    }
}

pub(crate) fn collect(found: &mut Found, rows: Vec<Row>) {
    found.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
}

impl<V, C: Codec<V>> Inner<V, C> {
    pub(crate) async fn read(&self, keys: &[Key]) -> Result<Vec<Result<Option<Entry<V>>>>> {
        let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
        let asked = self.clock.now();
        let found = self.run(&Read { rows: &self.rows, identities: &identities }).await?;
        let entry = |(key, identity): (&Key, &Identity)| -> Result<Option<Entry<V>>> {
            let Some(row) = found.get(&identity.id).filter(|row| row.full_key == identity.full_key) else {
                return Ok(None);
            };
            let Some(record) = &row.value else { return Ok(None) };
            let (value, life) = match self.envelope.open(key.as_bytes(), record)? {
                Opened::Value(value, life) => (Some(value), life),
                Opened::Absent(life) => (None, life),
                Opened::Lease => return Ok(None),
            };
            // Counted from before the asking: on the way back the life went on; and a millisecond more, as the database's
            // clock is read in whole ones. The record counts from zero and knows how long the life was when it was written.
            let millis = |millis: i64| u64::try_from(millis).unwrap_or(0);
            // The age of a row from the future is unknown, so any life with an end counts as over.
            let elapsed = if is_future(row) { u64::MAX } else { row.elapsed.map_or(0, millis).saturating_add(1) };
            let remaining = row.number.map_or(Ttl::Never, |left| Ttl::After(Duration::from_millis(millis(left))));
            let entry = life.entry(value, asked, elapsed).expiring_by(Expiry::after(asked, remaining));
            Ok((!entry.is_expired(self.clock.now())).then_some(entry))
        };
        let entries = keys.iter().zip(&identities).map(entry).collect();
        self.remove_future(&found).await;
        Ok(entries)
    }

    /// Removes what expires and was written before the clock was set back, or it would be served once the clock has come so far
    /// again. A failure changes no answer: these rows are misses already, and the next reader tries again.
    async fn remove_future(&self, found: &Found) {
        let future = found.values().filter(|row| row.number.is_some() && is_future(row));
        let future: Vec<(&[u8], i64)> = future.filter_map(|row| Some((&row.id[..], row.written_at?))).collect();
        if !future.is_empty() {
            let _ = self.run(&RemoveFuture { rows: &self.rows, found: &future }).await;
        }
    }
}

/// Whether a row was written later than any clock that goes on can have shown.
fn is_future(row: &Row) -> bool {
    row.elapsed.is_some_and(|elapsed| elapsed < -AHEAD_MILLIS)
}

/// The one result of a batch of one.
pub(crate) fn only<T>(results: Vec<Result<T>>) -> Result<T> {
    results.into_iter().next().unwrap_or_else(|| Err(error::unexpected()))
}
