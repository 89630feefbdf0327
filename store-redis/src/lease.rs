//! Takes and releases leases and claims.

use std::time::Duration;

use cache_core::{
    Claim, Key, Result, Ticket,
    backend::{Envelope, marker_millis, only, write_id},
};
use redis::{Cmd, Value};

use crate::{
    connection::{
        error::unexpected,
        reply,
        server::{AHEAD_MILLIS, ServerSnapshot},
    },
    keyspace::Keyspace,
    record::scripts::{self, Script},
};

/// Returns the command that leaves a marker with this id for `millis` milliseconds, by `script`.
fn mark(keyspace: &Keyspace, script: &Script, key: &Key, id: u64, millis: u64, server: ServerSnapshot) -> (usize, Cmd) {
    let name = keyspace.namespace.key(key);
    let mut mark = script.run(&name);
    let created = server.earliest_micros(keyspace.now()) / 1000;
    mark.arg(Envelope::lease(server.validity.binding(&name), id, created)).arg(millis).arg(server.validity.since);
    (keyspace.link_of(key), mark)
}

/// Returns one ticket per key. Each is valid for `life`, but at most for `lease_millis`.
pub(crate) async fn lease(
    keyspace: &Keyspace,
    keys: &[Key],
    life: Duration,
    lease_millis: u64,
) -> Result<Vec<Result<Ticket>>> {
    let Some(first) = keys.first() else { return Ok(Vec::new()) };
    let call = keyspace.call();
    let server = call.take_snapshot(keyspace.link_of(first)).await?;
    let millis = marker_millis(life, lease_millis);
    let leases = keys.iter().map(|key| {
        let (link, mut lease) = mark(keyspace, &scripts::LEASE, key, write_id::next(), millis, server);
        lease.arg(lease_millis);
        (link, lease)
    });
    let replies = call.send_all(Some(&scripts::LEASE), Some(server), leases.collect()).await;
    Ok(replies.into_iter().map(|reply| reply.and_then(parse_ticket)).collect())
}

pub(crate) async fn claim(keyspace: &Keyspace, key: &Key, lease_millis: u64) -> Result<Claim> {
    let call = keyspace.call();
    let server = call.take_snapshot(keyspace.link_of(key)).await?;
    let latest = server.latest(keyspace.now());
    let own = write_id::next_claim();
    let (link, mut claim) = mark(keyspace, &scripts::CLAIM, key, own, lease_millis, server);
    claim.arg(latest.saturating_add(AHEAD_MILLIS));
    let [id, granted] =
        reply::array(only(call.send_all(Some(&scripts::CLAIM), Some(server), vec![(link, claim)]).await)?)?;
    let ticket = parse_ticket(id)?;
    let granted = reply::integer(granted)? == 1;
    let vacant = ticket.version() == Some(own);
    Ok(if granted { Claim::granted(ticket).vacant(vacant) } else { Claim::refused(ticket) })
}

/// Removes the markers with these ids.
pub(crate) async fn release(keyspace: &Keyspace, markers: impl Iterator<Item = (&Key, u64)>) -> Result<()> {
    let releases = markers.map(|(key, id)| {
        let mut release = scripts::RELEASE.run(&keyspace.namespace.key(key));
        release.arg(id.to_le_bytes().as_slice());
        (keyspace.link_of(key), release)
    });
    let replies = keyspace.call().send_all(Some(&scripts::RELEASE), None, releases.collect()).await;
    replies.into_iter().try_for_each(|reply| reply.map(drop))
}

fn parse_ticket(id: Value) -> Result<Ticket> {
    let id = reply::bytes(id)?.and_then(|id| id.try_into().ok()).ok_or_else(unexpected)?;
    Ok(Ticket::at(u64::from_le_bytes(id)))
}
