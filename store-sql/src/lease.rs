//! How leases and claims are taken and given back.

use std::time::Duration;

use cache_core::{Claim, Key, Result, Ticket, backend::write_id};

use crate::{
    call::{Mode, Work},
    identity::Identity,
    pool::Session,
    read::{Found, Read, collect},
    rows::{IDS, NewRow, Rows},
    statement::Row,
    store::Inner,
};

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

/// How often a claim looks again when what stood in its way has gone.
const ATTEMPTS: u32 = 3;

/// Leaves a claim's marker unless there is a live claim or a live value; the write id that is there then, and whether it
/// is no other's claim.
///
/// It is harmless if it takes effect late: it voids some tickets, and runs out.
struct Stake<'a> {
    rows: &'a Rows,
    marker: &'a [NewRow<'a>; 1],
}

impl Work for Stake<'_> {
    /// `None` if what was in the way has gone each time.
    type Output = Option<(Row, bool)>;

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Self::Output> {
        let mut found = None;
        // What is in the way may be gone before it is looked at, by running out for example.
        for _ in 0..ATTEMPTS {
            found = self.attempt(session).await?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }
}

impl Stake<'_> {
    async fn attempt(&self, session: &mut Session) -> sqlx::Result<Option<(Row, bool)>> {
        let (dialect, [marker]) = (self.rows.dialect, self.marker);
        for insert in self.rows.insert(self.marker, dialect.claiming()) {
            if !dialect.leasing_returns() {
                session.change(&insert).await?;
            } else if let Some(row) = session.rows(&insert).await?.pop() {
                return Ok(Some((row, true)));
            }
        }
        let id = [&marker.identity.id[..]];
        if let Some(row) = session.rows(&self.rows.select_ids_of_markers(&id)).await?.pop() {
            let ours = row.number == Some(marker.write_id.cast_signed());
            // A plain marker has come since.
            let is_claim = row.number.is_some_and(|id| write_id::is_claim(id.cast_unsigned()));
            return Ok(is_claim.then_some((row, ours)));
        }
        // Who claims has found no value. So this one has just come, or cannot be read by who claims, and in that case nobody
        // else would load it.
        let value = session.rows(&self.rows.select_ids_of_values(&id)).await?.pop();
        Ok(value.map(|row| (row, true)))
    }
}

/// Removes markers. It is harmless if it takes effect late: there are no others with these ids.
struct Release<'a> {
    rows: &'a Rows,
    /// In the order of their identities, as every batch.
    markers: &'a [(Identity, u64)],
}

impl Work for Release<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        for some in self.markers.chunks(IDS) {
            let ids: Vec<&[u8]> = some.iter().map(|(identity, _)| &identity.id[..]).collect();
            let write_ids: Vec<u64> = some.iter().map(|(_, write_id)| *write_id).collect();
            session.change(&self.rows.delete_markers(&ids, &write_ids)).await?;
        }
        Ok(())
    }
}

/// The ticket of a row.
fn ticket(row: &Row) -> Option<Ticket> {
    row.number.map(|write_id| Ticket::at(write_id.cast_unsigned()))
}

impl<V, C> Inner<V, C> {
    fn marker(identity: &Identity, write_id: u64, millis: u64) -> NewRow<'_> {
        NewRow { identity, value: None, write_id, written: None, millis: Some(millis) }
    }

    /// Tickets that are good for `life`, but no longer than the store's `lease_ttl`.
    pub(crate) async fn lease(&self, keys: &[Key], life: Duration) -> Result<Vec<Result<Ticket>>> {
        let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
        let held = self.run(&Held(Read { rows: &self.rows, identities: &identities })).await?;
        let mut missing: Vec<&Identity> = identities.iter().filter(|of| !held.contains_key(&of.id)).collect();
        missing.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        missing.dedup_by(|a, b| a.id == b.id);
        let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).clamp(1, self.lease_millis);
        let new_marker = |identity| Self::marker(identity, write_id::next(), millis);
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

    pub(crate) async fn claim(&self, key: &Key) -> Result<Claim> {
        let identity = Identity::of(key);
        let own = write_id::next_claim();
        let marker = [Self::marker(&identity, own, self.lease_millis)];
        let found = self.run(&Stake { rows: &self.rows, marker: &marker }).await?;
        let (row, granted) = found.unzip();
        // A ticket that is void, if what was in the way has gone each time.
        let ticket = row.as_ref().and_then(ticket).unwrap_or_else(|| Ticket::at(write_id::next()));
        let vacant = ticket.version() == Some(own);
        Ok(if granted.unwrap_or(true) { Claim::granted(ticket).vacant(vacant) } else { Claim::refused(ticket) })
    }

    /// Removes the markers with these write ids.
    pub(crate) async fn release(&self, markers: impl Iterator<Item = (&Key, u64)>) -> Result<()> {
        let mut markers: Vec<(Identity, u64)> = markers.map(|(key, write_id)| (Identity::of(key), write_id)).collect();
        markers.sort_unstable_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        if markers.is_empty() {
            return Ok(());
        }
        self.run(&Release { rows: &self.rows, markers: &markers }).await
    }
}
