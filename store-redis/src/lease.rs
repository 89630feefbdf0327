//! Takes and releases leases and claims.

use std::time::Duration;

use cache_core::{
    Claim, Key, Result, Ticket,
    backend::{Envelope, marker_millis, write_id},
};
use redis::{Cmd, Value};

use crate::{
    connection::{
        call::Call,
        error::unexpected,
        reply,
        server::{AHEAD_MILLIS, ServerSnapshot},
    },
    keyspace::Keyspace,
    record::scripts::{self, Script},
};

/// Returns the command that leaves a marker with this id for `millis` milliseconds, by `script`.
fn mark(
    keyspace: &Keyspace,
    call: &Call,
    script: &Script,
    key: &Key,
    id: u64,
    millis: u64,
    server: ServerSnapshot,
) -> (usize, Cmd) {
    let name = keyspace.namespace.key(key);
    let mut mark = script.run(&name);
    let now = keyspace.now();
    let created = server.earliest_micros(now) / 1000;
    mark.arg(Envelope::lease(server.validity.binding(&name), id, created)).arg(millis).arg(server.validity.since);
    mark.arg(server.latest(now));
    (call.link_of(key), mark)
}

/// Returns one ticket per key. Each is valid for `life`, but at most for `lease_millis`.
pub(crate) async fn lease(
    keyspace: &Keyspace,
    call: Call,
    keys: Vec<&Key>,
    life: Duration,
    lease_millis: u64,
) -> Result<Vec<Result<Ticket>>> {
    let Some(first) = keys.first() else { return Ok(Vec::new()) };
    let server = call.take_snapshot(call.link_of(first)).await?;
    let millis = marker_millis(life, lease_millis);
    let leases = keys.iter().map(|key| {
        let (link, mut lease) = mark(keyspace, &call, &scripts::LEASE, key, write_id::next(), millis, server);
        lease.arg(lease_millis);
        (link, lease)
    });
    let replies = call.send_all(&[&scripts::LEASE], Some(server), leases.collect()).await;
    Ok(replies.into_iter().map(|reply| reply.and_then(parse_ticket)).collect())
}

/// Returns one claim per key. Each lives for `life`, but at most for `lease_millis`.
pub(crate) async fn claim(
    keyspace: &Keyspace,
    call: Call,
    keys: Vec<&Key>,
    life: Duration,
    lease_millis: u64,
) -> Result<Vec<Result<Claim>>> {
    let Some(first) = keys.first() else { return Ok(Vec::new()) };
    let server = call.take_snapshot(call.link_of(first)).await?;
    let latest = server.latest(keyspace.now());
    let millis = marker_millis(life, lease_millis);
    let own: Vec<u64> = keys.iter().map(|_| write_id::next_claim()).collect();
    let claims = keys.iter().zip(&own).map(|(key, own)| {
        let (link, mut claim) = mark(keyspace, &call, &scripts::CLAIM, key, *own, millis, server);
        claim.arg(latest.saturating_add(AHEAD_MILLIS));
        (link, claim)
    });
    let replies = call.send_all(&[&scripts::CLAIM], Some(server), claims.collect()).await;
    Ok(replies.into_iter().zip(own).map(|(reply, own)| parse_claim(reply?, own)).collect())
}

/// Lets the claims with these ids live for `life` from now on, but at most for `lease_millis`.
pub(crate) async fn renew(
    keyspace: &Keyspace,
    call: Call,
    claims: Vec<&(&Key, u64)>,
    life: Duration,
    lease_millis: u64,
) -> Result<Vec<Result<()>>> {
    let millis = marker_millis(life, lease_millis);
    let renewals = claims.iter().map(|(key, id)| {
        let mut renew = scripts::RENEW.run(&keyspace.namespace.key(key));
        renew.arg(id.to_le_bytes().as_slice()).arg(millis);
        (call.link_of(key), renew)
    });
    let replies = call.send_all(&[&scripts::RENEW], None, renewals.collect()).await;
    Ok(replies.into_iter().map(|reply| reply.map(drop)).collect())
}

/// Removes the markers with these ids.
pub(crate) async fn release(keyspace: &Keyspace, call: Call, markers: Vec<&(&Key, u64)>) -> Result<Vec<Result<()>>> {
    let releases = markers.iter().map(|(key, id)| {
        let mut release = scripts::RELEASE.run(&keyspace.namespace.key(key));
        release.arg(id.to_le_bytes().as_slice());
        (call.link_of(key), release)
    });
    let replies = call.send_all(&[&scripts::RELEASE], None, releases.collect()).await;
    Ok(replies.into_iter().map(|reply| reply.map(drop)).collect())
}

fn parse_ticket(id: Value) -> Result<Ticket> {
    let id = reply::bytes(id)?.and_then(|id| id.try_into().ok()).ok_or_else(unexpected)?;
    Ok(Ticket::at(u64::from_le_bytes(id)))
}

/// Parses the reply to a claim with the id `own`.
fn parse_claim(reply: Value, own: u64) -> Result<Claim> {
    let [id, granted] = reply::array(reply)?;
    let ticket = parse_ticket(id)?;
    let vacant = ticket.version() == Some(own);
    Ok(match reply::integer(granted)? {
        1 => Claim::granted(ticket).vacant(vacant),
        _ => Claim::refused(ticket),
    })
}
