//! Takes entries: removes and returns them.

use cache_core::{
    Codec, Entry, Key, Result,
    backend::{Envelope, only},
};
use redis::Pipeline;

use crate::{
    connection::{call::Call, reply},
    keyspace::Keyspace,
    read::{Records, plain_entry},
    record::scripts,
};

pub(crate) async fn take_record<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    envelope: &Envelope<C>,
    key: &Key,
) -> Result<Option<Entry<V>>> {
    let link = call.link_of(key);
    let call = call.confirmed();
    // The snapshot is taken first, and no other is taken afterwards: if that fails, the record must
    // still be there.
    let server = call.take_snapshot(link).await?;
    let name = keyspace.namespace.key(key);
    let asked = keyspace.now();
    let writing = keyspace.publication.writing();
    let take = vec![(link, writing.run(&scripts::TAKE, &name))];
    let taken = only(call.send_all(&[writing.script(&scripts::TAKE)], Some(server), take).await)?;
    Records { keyspace, envelope, call, link, asked, server: Some(server) }.open(&name, taken).await
}

pub(crate) async fn take_plain<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    codec: &C,
    key: &Key,
) -> Result<Option<Entry<V>>> {
    let name = keyspace.namespace.key(key);
    let link = call.link_of(key);
    let call = call.confirmed();
    let writing = keyspace.publication.writing();
    let asked = keyspace.now();
    let taken = if writing.is_announced || call.is_confirmed() {
        let take = vec![(link, writing.run(&scripts::TAKE_PLAIN, &name))];
        only(call.send_all(&[writing.script(&scripts::TAKE_PLAIN)], None, take).await)?
    } else {
        let mut take = Pipeline::with_capacity(3);
        take.cmd("GET").arg(&name).cmd("PTTL").arg(&name).cmd("UNLINK").arg(&name);
        call.transact(link, take).await?
    };
    let [value, remaining, _] = reply::array(taken)?;
    plain_entry(keyspace, codec, &name, value, remaining, asked)
}
