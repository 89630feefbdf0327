//! Describes what is stored under a key.

use cache_core::{
    Key, Result,
    backend::{Envelope, Inspection},
};
use redis::cmd;

use crate::{
    connection::{call::Call, error::unexpected, reply},
    keyspace::Keyspace,
    read::remaining_ttl,
};

pub(crate) async fn inspect(keyspace: &Keyspace, call: Call, is_plain: bool, key: &Key) -> Result<Option<Inspection>> {
    let name = keyspace.namespace.key(key);
    let link = call.link_of(key);
    let commands = ["GET", "PTTL"].map(|command| {
        let mut on_key = cmd(command);
        on_key.arg(&name);
        (link, on_key)
    });
    let replies: [_; 2] = call.send_all(&[], None, commands.into()).await.try_into().map_err(|_| unexpected())?;
    let [value, remaining] = replies;
    let Some(bytes) = reply::bytes(value?)? else { return Ok(None) };
    // A store of records does without PTTL, so its user need not be permitted to run it.
    let ttl = remaining.and_then(remaining_ttl).ok();
    let record = (!is_plain).then(|| Envelope::describe(&name, &bytes));
    Ok(Some(Inspection::new(bytes.len(), ttl, record)))
}
