//! Takes and releases leases and claims.

use std::time::Duration;

use cache_core::{
    Claim, Key, Result, Ticket,
    backend::{marker_millis, write_id},
};

use crate::{
    database::{Mode, Session, Work},
    dialect::statement::Row,
    keyspace::Keyspace,
    table::{
        identity::Identity,
        rows::{MAX_IDS, NewRow, Rows},
        select::{Found, Select, collect, select_into},
    },
};

/// Returns one ticket per key. Each is valid for `life`, but at most for `lease_millis`.
pub(crate) async fn lease(
    keyspace: &Keyspace,
    keys: &[Key],
    life: Duration,
    lease_millis: u64,
) -> Result<Vec<Result<Ticket>>> {
    let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
    let values = Select { rows: &keyspace.rows, identities: &identities, statement: Rows::select_ids_of_values };
    let values = keyspace.run(&values).await?;
    let mut missing: Vec<&Identity> = identities.iter().filter(|of| !values.contains_key(&of.id)).collect();
    missing.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    missing.dedup_by(|a, b| a.id == b.id);
    let millis = marker_millis(life, lease_millis);
    let new_marker = |identity| marker(identity, write_id::next(), millis);
    let markers: Vec<NewRow<'_>> = missing.into_iter().map(new_marker).collect();
    let installed = match &markers[..] {
        [] => Found::new(),
        markers => keyspace.run(&InstallMarkers { rows: &keyspace.rows, markers }).await?,
    };
    let of = |identity: &Identity| {
        let row = values.get(&identity.id).or_else(|| installed.get(&identity.id));
        // Without a row, another process has written the value or removed the marker meanwhile. The
        // ticket is then void.
        Ok(row.and_then(ticket).unwrap_or_else(|| Ticket::at(write_id::next())))
    };
    Ok(identities.iter().map(of).collect())
}

pub(crate) async fn claim(keyspace: &Keyspace, key: &Key, lease_millis: u64) -> Result<Claim> {
    let identity = Identity::of(key);
    let own = write_id::next_claim();
    let marker = [marker(&identity, own, lease_millis)];
    let found = keyspace.run(&InstallClaim { rows: &keyspace.rows, marker: &marker }).await?;
    let (row, granted) = found.unzip();
    // Without a row, the conflicting row had gone at each attempt. The ticket is then void.
    let ticket = row.as_ref().and_then(ticket).unwrap_or_else(|| Ticket::at(write_id::next()));
    let granted = granted.unwrap_or(true);
    let vacant = ticket.version() == Some(own);
    Ok(if granted { Claim::granted(ticket).vacant(vacant) } else { Claim::refused(ticket) })
}

/// Removes the markers with these write ids.
pub(crate) async fn release(keyspace: &Keyspace, markers: impl Iterator<Item = (&Key, u64)>) -> Result<()> {
    let mut markers: Vec<(Identity, u64)> = markers.map(|(key, write_id)| (Identity::of(key), write_id)).collect();
    markers.sort_unstable_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    if markers.is_empty() {
        return Ok(());
    }
    keyspace.run(&DeleteMarkers { rows: &keyspace.rows, markers: &markers }).await
}

fn marker(identity: &Identity, write_id: u64, millis: u64) -> NewRow<'_> {
    NewRow { identity, value: None, write_id, written: None, millis: Some(millis) }
}

/// Returns the ticket for a row.
fn ticket(row: &Row) -> Option<Ticket> {
    row.number.map(|write_id| Ticket::at(write_id.cast_unsigned()))
}

/// Installs markers for the keys without a live row, extends the lives of existing markers, and
/// returns the current write ids.
///
/// It is harmless if it takes effect late, because it replaces only expired rows.
struct InstallMarkers<'a> {
    rows: &'a Rows,
    markers: &'a [NewRow<'a>],
}

impl Work for InstallMarkers<'_> {
    type Output = Found;

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Found> {
        let mut found = Found::new();
        let dialect = self.rows.dialect;
        for insert in self.rows.insert(self.markers, dialect.lease_tail()) {
            if dialect.insert_returns_rows() {
                collect(&mut found, session.rows(&insert).await?);
            } else {
                session.change(&insert).await?;
            }
        }
        if !dialect.insert_returns_rows() {
            let ids: Vec<&[u8]> = self.markers.iter().map(|marker| &marker.identity.id[..]).collect();
            select_into(&mut found, session, self.rows, &ids, Rows::select_ids).await?;
        }
        Ok(found)
    }
}

/// The number of attempts of a claim. An attempt fails if the conflicting row has gone before it is
/// read.
const CLAIM_ATTEMPTS: u32 = 3;

/// Installs a claim's marker unless the key has a live claim or a live value. Returns the row that
/// the key has then, and whether the claim is granted: whether the row is not the claim of another
/// caller.
///
/// It is harmless if it takes effect late: it voids some tickets, and expires.
struct InstallClaim<'a> {
    rows: &'a Rows,
    marker: &'a [NewRow<'a>; 1],
}

impl Work for InstallClaim<'_> {
    /// `None` if the conflicting row had gone at each attempt.
    type Output = Option<(Row, bool)>;

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Self::Output> {
        let mut found = None;
        // The conflicting row may be gone before it is read, for example because it has expired.
        for _ in 0..CLAIM_ATTEMPTS {
            found = self.attempt(session).await?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }
}

impl InstallClaim<'_> {
    async fn attempt(&self, session: &mut Session) -> sqlx::Result<Option<(Row, bool)>> {
        let (dialect, [marker]) = (self.rows.dialect, self.marker);
        for insert in self.rows.insert(self.marker, dialect.claim_tail()) {
            if !dialect.insert_returns_rows() {
                session.change(&insert).await?;
            } else if let Some(row) = session.rows(&insert).await?.pop() {
                return Ok(Some((row, true)));
            }
        }
        let id = [&marker.identity.id[..]];
        if let Some(row) = session.rows(&self.rows.select_ids_of_markers(&id)).await?.pop() {
            let is_own = row.number == Some(marker.write_id.cast_signed());
            // A plain marker has been installed meanwhile; try again.
            let is_claim = row.number.is_some_and(|id| write_id::is_claim(id.cast_unsigned()));
            return Ok(is_claim.then_some((row, is_own)));
        }
        // The caller has found no value. So this one is new, or the caller cannot read it; in the
        // latter case no other process would load it.
        let value = session.rows(&self.rows.select_ids_of_values(&id)).await?.pop();
        Ok(value.map(|row| (row, true)))
    }
}

/// Deletes markers. It is harmless if it takes effect late, because no other markers have these
/// write ids.
struct DeleteMarkers<'a> {
    rows: &'a Rows,
    /// Sorted by id, as in every batch.
    markers: &'a [(Identity, u64)],
}

impl Work for DeleteMarkers<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        for some in self.markers.chunks(MAX_IDS) {
            let ids: Vec<&[u8]> = some.iter().map(|(identity, _)| &identity.id[..]).collect();
            let write_ids: Vec<u64> = some.iter().map(|(_, write_id)| *write_id).collect();
            session.change(&self.rows.delete_markers(&ids, &write_ids)).await?;
        }
        Ok(())
    }
}
