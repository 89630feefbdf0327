//! How leases and claims are taken.

use cache_core::{Claim, Envelope, Key, Result, Ticket, backend::write_id};
use redis::{Cmd, Value};

use crate::{
    call::Known,
    error,
    scripts::{self, Script},
    store::{Inner, only},
};

impl<V, C> Inner<V, C> {
    /// The script that leaves a marker with this id.
    fn mark(&self, script: &Script, key: &Key, id: u64, known: Known) -> (usize, Cmd) {
        let mut mark = script.run(&self.namespace.key(key));
        let created = known.earliest_micros(self.now()) / 1000;
        mark.arg(Envelope::lease(id, created)).arg(self.lease_millis).arg(known.oldest);
        (self.link_of(key), mark)
    }

    pub(crate) async fn lease(&self, keys: &[Key]) -> Result<Vec<Result<Ticket>>> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let call = self.connection.shared().call();
        let known = call.known(self.link_of(first)).await?;
        let leases = keys.iter().map(|key| self.mark(&scripts::LEASE, key, write_id::next(), known));
        let replies = call.each(Some(&scripts::LEASE), Some(known), leases.collect()).await;
        Ok(replies.into_iter().map(|reply| reply.and_then(ticket)).collect())
    }

    pub(crate) async fn claim(&self, key: &Key) -> Result<Claim> {
        let call = self.connection.shared().call();
        let known = call.known(self.link_of(key)).await?;
        let claim = self.mark(&scripts::CLAIM, key, write_id::next_claim(), known);
        let [id, granted] = error::array(only(call.each(Some(&scripts::CLAIM), Some(known), vec![claim]).await)?)?;
        Ok(Claim { ticket: ticket(id)?, granted: error::integer(granted)? == 1 })
    }

    pub(crate) async fn release(&self, key: &Key, id: u64) -> Result<()> {
        let mut release = scripts::RELEASE.run(&self.namespace.key(key));
        release.arg(id.to_le_bytes().as_slice());
        let call = self.connection.shared().call();
        only(call.each(Some(&scripts::RELEASE), None, vec![(self.link_of(key), release)]).await).map(drop)
    }
}

fn ticket(id: Value) -> Result<Ticket> {
    let id = error::bytes(id)?.and_then(|id| id.try_into().ok()).ok_or_else(error::unexpected)?;
    Ok(Ticket::at(u64::from_le_bytes(id)))
}
