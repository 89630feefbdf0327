//! How leases and claims are taken.

use cache_core::{Claim, Envelope, Key, Result, Ticket, backend::write_id};
use redis::{Cmd, Value};

use crate::{
    error,
    scripts::{self, Script},
    store::{Inner, only},
};

impl<V, C> Inner<V, C> {
    /// The script on the key, given a marker with this id and its life.
    fn mark(&self, script: &Script, key: &Key, id: u64) -> (usize, Cmd) {
        let mut mark = script.run(&self.namespace.key(key));
        mark.arg(Envelope::lease(id)).arg(self.lease_millis);
        (self.link_of(key), mark)
    }

    pub(crate) async fn lease(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        let leases = keys.iter().map(|key| self.mark(&scripts::LEASE, key, write_id::next()));
        let call = self.connection.shared().call();
        let replies = call.each(Some(&scripts::LEASE), leases.collect()).await;
        replies.into_iter().map(|reply| reply.and_then(ticket)).collect()
    }

    pub(crate) async fn claim(&self, key: &Key) -> Result<Claim> {
        let claim = self.mark(&scripts::CLAIM, key, write_id::next_claim());
        let call = self.connection.shared().call();
        let [id, granted] = error::array(only(call.each(Some(&scripts::CLAIM), vec![claim]).await)?)?;
        Ok(Claim { ticket: ticket(id)?, granted: error::integer(granted)? == 1 })
    }

    pub(crate) async fn release(&self, key: &Key, id: u64) -> Result<()> {
        let release = self.mark(&scripts::RELEASE, key, id);
        let call = self.connection.shared().call();
        only(call.each(Some(&scripts::RELEASE), vec![release]).await).map(drop)
    }
}

fn ticket(id: Value) -> Result<Ticket> {
    let id = error::bytes(id)?.and_then(|id| id.try_into().ok()).ok_or_else(error::unexpected)?;
    Ok(Ticket::at(u64::from_le_bytes(id)))
}
