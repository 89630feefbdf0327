//! Takes and releases leases and claims.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

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
        select::{Found, Select, SelectFn, collect, select_into},
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

/// Returns one claim per key. Each lives for `life`, but at most for `lease_millis`.
pub(crate) async fn claim(keyspace: &Keyspace, keys: &[Key], life: Duration, lease_millis: u64) -> Result<Vec<Claim>> {
    let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
    let millis = marker_millis(life, lease_millis);
    // Sorted by id, as in every batch.
    let own: BTreeMap<&[u8], &Identity> = identities.iter().map(|identity| (&identity.id[..], identity)).collect();
    let markers: Vec<NewRow<'_>> =
        own.into_values().map(|identity| marker(identity, write_id::next_claim(), millis)).collect();
    let rows = keyspace.run(&InstallClaims { rows: &keyspace.rows, markers: &markers }).await?;
    let mut own: HashMap<&[u8], u64> =
        markers.iter().map(|marker| (&marker.identity.id[..], marker.write_id)).collect();
    // A key that occurs again was claimed by its first occurrence.
    let claim = |identity: &Identity| answer(own.remove(&identity.id[..]), rows.get(&identity.id));
    Ok(identities.iter().map(claim).collect())
}

/// Returns the answer to a claim with the id `own`, `None` if it is not the first of its key in the
/// batch. `row` is the row that the key has then.
fn answer(own: Option<u64>, row: Option<&Claimed>) -> Claim {
    // Without a row, the conflicting row had gone at each attempt. The ticket is then void.
    let Some(row) = row else {
        let ticket = Ticket::at(write_id::next());
        return if own.is_some() { Claim::granted(ticket) } else { Claim::refused(ticket) };
    };
    let ticket = Ticket::at(row.write_id);
    let vacant = own == Some(row.write_id);
    if row.is_value || vacant { Claim::granted(ticket).vacant(vacant) } else { Claim::refused(ticket) }
}

/// Lets the claims with these write ids live for `life` from now on, but at most for
/// `lease_millis`.
pub(crate) async fn renew(
    keyspace: &Keyspace,
    claims: impl Iterator<Item = (&Key, u64)>,
    life: Duration,
    lease_millis: u64,
) -> Result<()> {
    let markers = sorted(claims);
    if markers.is_empty() {
        return Ok(());
    }
    let millis = marker_millis(life, lease_millis);
    keyspace.run(&RenewMarkers { rows: &keyspace.rows, markers: &markers, millis }).await
}

/// Removes the markers with these write ids.
pub(crate) async fn release(keyspace: &Keyspace, markers: impl Iterator<Item = (&Key, u64)>) -> Result<()> {
    let markers = sorted(markers);
    if markers.is_empty() {
        return Ok(());
    }
    keyspace.run(&DeleteMarkers { rows: &keyspace.rows, markers: &markers }).await
}

/// Sorts markers by id, as in every batch.
fn sorted<'a>(markers: impl Iterator<Item = (&'a Key, u64)>) -> Vec<(Identity, u64)> {
    let mut markers: Vec<(Identity, u64)> = markers.map(|(key, write_id)| (Identity::of(key), write_id)).collect();
    markers.sort_unstable_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    markers
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

/// The row that a key has after it was claimed.
struct Claimed {
    write_id: u64,
    /// `true` if the row is a value. Otherwise it is the marker of a claim.
    is_value: bool,
}

/// Installs claims' markers for the keys that have neither a live claim nor a live value. Returns
/// the rows that the keys have then, by id. A row that had gone at each attempt is missing.
///
/// It is harmless if it takes effect late: it voids some tickets, and expires.
struct InstallClaims<'a> {
    rows: &'a Rows,
    /// Sorted by id, each id once.
    markers: &'a [NewRow<'a>],
}

impl Work for InstallClaims<'_> {
    type Output = HashMap<Vec<u8>, Claimed>;

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Self::Output> {
        let mut claimed = HashMap::with_capacity(self.markers.len());
        // A conflicting row may be gone before it is read, for example because it has expired.
        for _ in 0..CLAIM_ATTEMPTS {
            let is_missing = |marker: &&NewRow<'_>| !claimed.contains_key(&marker.identity.id);
            let missing: Vec<NewRow<'_>> = self.markers.iter().filter(is_missing).copied().collect();
            if missing.is_empty() {
                break;
            }
            self.attempt(session, &missing, &mut claimed).await?;
        }
        Ok(claimed)
    }
}

impl InstallClaims<'_> {
    async fn attempt(
        &self,
        session: &mut Session,
        markers: &[NewRow<'_>],
        claimed: &mut HashMap<Vec<u8>, Claimed>,
    ) -> sqlx::Result<()> {
        let dialect = self.rows.dialect;
        for insert in self.rows.insert(markers, dialect.claim_tail()) {
            if dialect.insert_returns_rows() {
                let installed = session.rows(&insert).await?;
                claimed.extend(installed.into_iter().filter_map(|row| by_id(row, false)));
            } else {
                session.change(&insert).await?;
            }
        }
        let found = self.missing(session, markers, claimed, Rows::select_ids_of_markers).await?;
        // A plain marker has been installed meanwhile; try again.
        let claims = found.into_values().filter_map(|row| by_id(row, false));
        claimed.extend(claims.filter(|(_, claim)| write_id::is_claim(claim.write_id)));
        // The caller has found no value. So this one is new, or the caller cannot read it; in the
        // latter case no other process would load it.
        let found = self.missing(session, markers, claimed, Rows::select_ids_of_values).await?;
        claimed.extend(found.into_values().filter_map(|row| by_id(row, true)));
        Ok(())
    }

    /// Selects rows of the keys that are not known to be claimed.
    async fn missing(
        &self,
        session: &mut Session,
        markers: &[NewRow<'_>],
        claimed: &HashMap<Vec<u8>, Claimed>,
        statement: SelectFn,
    ) -> sqlx::Result<Found> {
        let ids = markers.iter().map(|marker| &marker.identity.id[..]);
        let ids: Vec<&[u8]> = ids.filter(|id| !claimed.contains_key(*id)).collect();
        let mut found = Found::new();
        select_into(&mut found, session, self.rows, &ids, statement).await?;
        Ok(found)
    }
}

fn by_id(row: Row, is_value: bool) -> Option<(Vec<u8>, Claimed)> {
    let write_id = row.number?.cast_unsigned();
    Some((row.id, Claimed { write_id, is_value }))
}

/// Changes the lives of claims' markers. It is harmless if it takes effect late, because no other
/// markers have these write ids, and their lives stay short.
struct RenewMarkers<'a> {
    rows: &'a Rows,
    /// Sorted by id, as in every batch.
    markers: &'a [(Identity, u64)],
    millis: u64,
}

impl Work for RenewMarkers<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        for some in self.markers.chunks(MAX_IDS) {
            let (ids, write_ids) = columns(some);
            session.change(&self.rows.renew_markers(&ids, &write_ids, self.millis)).await?;
        }
        Ok(())
    }
}

/// Returns the ids and the write ids of markers.
fn columns(markers: &[(Identity, u64)]) -> (Vec<&[u8]>, Vec<u64>) {
    markers.iter().map(|(identity, write_id)| (&identity.id[..], *write_id)).unzip()
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
            let (ids, write_ids) = columns(some);
            session.change(&self.rows.delete_markers(&ids, &write_ids)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_granted_if_it_is_the_own_or_if_there_is_a_value() {
        let (own, other) = (write_id::next_claim(), write_id::next_claim());
        let row = |write_id, is_value| Some(Claimed { write_id, is_value });
        let ticket = |claim: Claim| (claim.granted, claim.vacant, claim.ticket.version());
        assert_eq!(ticket(answer(Some(own), row(own, false).as_ref())), (true, true, Some(own)));
        assert_eq!(ticket(answer(Some(own), row(other, false).as_ref())), (false, false, Some(other)));
        assert_eq!(ticket(answer(Some(own), row(other, true).as_ref())), (true, false, Some(other)));
        // The second of a batch.
        assert_eq!(ticket(answer(None, row(own, false).as_ref())), (false, false, Some(own)));
        assert_eq!(ticket(answer(None, row(other, true).as_ref())), (true, false, Some(other)));
        assert!(answer(Some(own), None).granted && !answer(None, None).granted);
    }
}
