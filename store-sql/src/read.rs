//! How entries are read, and leases taken.

use std::{collections::HashMap, time::Duration};

use cache_core::{Codec, Entry, Expiry, Key, Opened, Result, Ticket, Ttl, backend::write_id};

use crate::{
    call::{Mode, Work},
    error,
    identity::Identity,
    pool::Session,
    rows::{IDS, NewRow, Rows},
    statement::Row,
    store::Inner,
};

type Found = HashMap<Vec<u8>, Row>;

/// The live values of these keys.
struct Read<'a> {
    rows: &'a Rows,
    identities: &'a [Identity],
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

/// The write ids of the values of these keys.
struct Held<'a>(Read<'a>);

impl Work for Held<'_> {
    type Output = Found;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Found> {
        let mut found = Found::new();
        for some in self.0.identities.chunks(IDS) {
            let ids: Vec<&[u8]> = some.iter().map(|identity| &identity.id[..]).collect();
            collect(&mut found, session.rows(&self.0.rows.select_ids_of_values(&ids)).await?);
        }
        Ok(found)
    }
}

/// Leaves markers where there is no live row, lets those that are there live on, and gives the write ids.
///
/// It is harmless if it takes effect late: it replaces only what has expired.
struct Mark<'a> {
    rows: &'a Rows,
    markers: &'a [NewRow<'a>],
}

impl Work for Mark<'_> {
    type Output = Found;

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Found> {
        let mut found = Found::new();
        let dialect = self.rows.dialect;
        for insert in self.rows.insert(self.markers, dialect.leasing()) {
            if dialect.leasing_returns() {
                collect(&mut found, session.rows(&insert).await?);
            } else {
                session.change(&insert).await?;
            }
        }
        if !dialect.leasing_returns() {
            for some in self.markers.chunks(IDS) {
                let ids: Vec<&[u8]> = some.iter().map(|marker| &marker.identity.id[..]).collect();
                collect(&mut found, session.rows(&self.rows.select_ids(&ids)).await?);
            }
        }
        Ok(found)
    }
}

fn collect(found: &mut Found, rows: Vec<Row>) {
    found.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
}

/// The ticket of a row.
fn ticket(row: &Row) -> Option<Ticket> {
    row.number.map(|write_id| Ticket::at(write_id.cast_unsigned()))
}

impl<V, C: Codec<V>> Inner<V, C> {
    pub(crate) async fn read(&self, keys: &[Key]) -> Result<Vec<Result<Option<Entry<V>>>>> {
        let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
        let asked = self.clock.now();
        let found = self.run(&Read { rows: &self.rows, identities: &identities }).await?;
        let entry = |identity: &Identity| -> Result<Option<Entry<V>>> {
            let Some(row) = found.get(&identity.id).filter(|row| row.full_key == identity.full_key) else {
                return Ok(None);
            };
            let Some(record) = &row.value else { return Ok(None) };
            let (value, life) = match self.envelope.open(record)? {
                Opened::Value(value, life) => (Some(value), life),
                Opened::Absent(life) => (None, life),
                Opened::Lease => return Ok(None),
            };
            // Counted from before the asking: on the way back the life went on; and a millisecond more, as the database's
            // clock is read in whole ones. The record counts from zero and knows how long the life was when it was written,
            // so a clock that is set back lengthens none.
            let millis = |millis: i64| u64::try_from(millis).unwrap_or(0);
            let elapsed = row.elapsed.map_or(0, millis).saturating_add(1);
            let remaining = row.number.map_or(Ttl::Never, |left| Ttl::After(Duration::from_millis(millis(left))));
            let entry = life.entry(value, asked, elapsed).expiring_by(Expiry::after(asked, remaining));
            Ok((!entry.is_expired(self.clock.now())).then_some(entry))
        };
        Ok(identities.iter().map(entry).collect())
    }

    fn marker<'a>(&self, identity: &'a Identity, write_id: u64) -> NewRow<'a> {
        NewRow { identity, value: None, write_id, written: None, millis: Some(self.lease_millis) }
    }

    pub(crate) async fn lease(&self, keys: &[Key]) -> Result<Vec<Result<Ticket>>> {
        let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
        let held = self.run(&Held(Read { rows: &self.rows, identities: &identities })).await?;
        let mut missing: Vec<&Identity> = identities.iter().filter(|of| !held.contains_key(&of.id)).collect();
        missing.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        missing.dedup_by(|a, b| a.id == b.id);
        let new_marker = |identity| self.marker(identity, write_id::next());
        let markers: Vec<NewRow<'_>> = missing.into_iter().map(new_marker).collect();
        let fresh = match &markers[..] {
            [] => Found::new(),
            markers => self.run(&Mark { rows: &self.rows, markers }).await?,
        };
        let of = |identity: &Identity| {
            let row = held.get(&identity.id).or_else(|| fresh.get(&identity.id));
            // Another has written the value meanwhile, or removed the marker: a ticket that is void.
            Ok(row.and_then(ticket).unwrap_or_else(|| Ticket::at(write_id::next())))
        };
        Ok(identities.iter().map(of).collect())
    }
}

/// The one result of a batch of one.
pub(crate) fn only<T>(results: Vec<Result<T>>) -> Result<T> {
    results.into_iter().next().unwrap_or_else(|| Err(error::unexpected()))
}
