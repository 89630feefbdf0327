//! How leases and claims are taken.

use std::time::Duration;

use cache_core::{
    Claim, Key, Result, Ticket,
    backend::{Envelope, write_id},
};
use redis::{Cmd, Value};

use crate::{
    call::{AHEAD_MILLIS, Known},
    error,
    scripts::{self, Script},
    store::{Inner, only},
};

impl<V, C> Inner<V, C> {
    /// The script that leaves a marker with this id for so many milliseconds.
    fn mark(&self, script: &Script, key: &Key, id: u64, millis: u64, known: Known) -> (usize, Cmd) {
        let name = self.namespace.key(key);
        let mut mark = script.run(&name);
        let created = known.earliest_micros(self.now()) / 1000;
        mark.arg(Envelope::lease(known.validity.binding(&name), id, created)).arg(millis).arg(known.validity.since);
        (self.link_of(key), mark)
    }

    /// Tickets that are good for `life`, but no longer than the store's `lease_ttl`.
    pub(crate) async fn lease(&self, keys: &[Key], life: Duration) -> Result<Vec<Result<Ticket>>> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let call = self.connection.shared().call();
        let known = call.known(self.link_of(first)).await?;
        let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).clamp(1, self.lease_millis);
        let leases = keys.iter().map(|key| {
            let (link, mut lease) = self.mark(&scripts::LEASE, key, write_id::next(), millis, known);
            lease.arg(self.lease_millis);
            (link, lease)
        });
        let replies = call.each(Some(&scripts::LEASE), Some(known), leases.collect()).await;
        Ok(replies.into_iter().map(|reply| reply.and_then(ticket)).collect())
    }

    pub(crate) async fn claim(&self, key: &Key) -> Result<Claim> {
        let call = self.connection.shared().call();
        let known = call.known(self.link_of(key)).await?;
        let latest = known.latest(self.now());
        let own = write_id::next_claim();
        let (link, mut claim) = self.mark(&scripts::CLAIM, key, own, self.lease_millis, known);
        claim.arg(latest.saturating_add(AHEAD_MILLIS));
        let [id, granted] =
            error::array(only(call.each(Some(&scripts::CLAIM), Some(known), vec![(link, claim)]).await)?)?;
        let ticket = ticket(id)?;
        let is_granted = error::integer(granted)? == 1;
        let vacant = ticket.version() == Some(own);
        Ok(if is_granted { Claim::granted(ticket).vacant(vacant) } else { Claim::refused(ticket) })
    }

    /// Removes the markers with these ids.
    pub(crate) async fn release(&self, markers: impl Iterator<Item = (&Key, u64)>) -> Result<()> {
        let releases = markers.map(|(key, id)| {
            let mut release = scripts::RELEASE.run(&self.namespace.key(key));
            release.arg(id.to_le_bytes().as_slice());
            (self.link_of(key), release)
        });
        let replies = self.connection.shared().call().each(Some(&scripts::RELEASE), None, releases.collect()).await;
        replies.into_iter().try_for_each(|reply| reply.map(drop))
    }
}

fn ticket(id: Value) -> Result<Ticket> {
    let id = error::bytes(id)?.and_then(|id| id.try_into().ok()).ok_or_else(error::unexpected)?;
    Ok(Ticket::at(u64::from_le_bytes(id)))
}
