//! Reads entries.

use std::time::Duration;

use cache_core::{
    Codec, Entry, Expiry, Key, Moment, Result, Ttl,
    backend::{ETag, Envelope, Opened},
};
use redis::{Pipeline, Value};

use crate::{
    connection::{call::Call, error::unexpected, reply, server::ServerSnapshot},
    keyspace::Keyspace,
};

/// From how many bytes on a record is checked by its head before it is transferred. Below, one round
/// trip for all of it costs less than two.
const LARGE: usize = 512;

/// Reads a record.
pub(crate) async fn read_record<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    envelope: &Envelope<C>,
    key: &Key,
) -> Result<Option<Entry<V>>> {
    let link = call.link_of(key);
    let name = keyspace.namespace.key(key);
    let asked = keyspace.now();
    let reply = call.get(link, name.clone()).await?;
    Records { keyspace, envelope, call, link, asked, server: None }.open(&name, reply).await
}

/// Reads records.
pub(crate) async fn read_records<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    envelope: &Envelope<C>,
    keys: Vec<&Key>,
) -> Result<Vec<Result<Option<Entry<V>>>>> {
    let Some(first) = keys.first() else { return Ok(Vec::new()) };
    let link = call.link_of(first);
    let names: Vec<Vec<u8>> = keys.iter().map(|key| keyspace.namespace.key(key)).collect();
    let asked = keyspace.now();
    let replies = call.get_all(link, &names).await?;
    // One look at the server is enough for all records that have come by now.
    let has_record = replies.iter().any(|reply| matches!(reply, Value::BulkString(_)));
    let server = if has_record { Some(call.take_snapshot(link).await?) } else { None };
    let records = Records { keyspace, envelope, call, link, asked, server };
    let mut entries = Vec::with_capacity(keys.len());
    for (name, reply) in names.iter().zip(replies) {
        entries.push(records.open(name, reply).await);
    }
    Ok(entries)
}

/// The records of one call.
pub(crate) struct Records<'a, C> {
    pub(crate) keyspace: &'a Keyspace,
    pub(crate) envelope: &'a Envelope<C>,
    pub(crate) call: Call,
    pub(crate) link: usize,
    /// The time before the request was sent.
    pub(crate) asked: Moment,
    /// The server that the request was made for, `None` if it was made for any.
    pub(crate) server: Option<ServerSnapshot>,
}

impl<C> Records<'_, C> {
    /// Returns the entry in a record, or `None` if the record is a marker, invalid or expired.
    pub(crate) async fn open<V>(&self, name: &[u8], reply: Value) -> Result<Option<Entry<V>>>
    where
        C: Codec<V>,
    {
        let Some(bytes) = reply::bytes(reply)? else { return Ok(None) };
        let Opened::Record(record) = self.envelope.open(name, &bytes)? else { return Ok(None) };
        let life = record.life;
        let server = match self.server {
            Some(server) => server,
            None => self.call.take_snapshot(self.link).await?,
        };
        let latest = server.latest(self.asked);
        if !server.admits(Envelope::epoch(&bytes), life, latest) {
            return Ok(None);
        }
        // The life is counted from before the request, because the entry ages while the reply is on
        // its way.
        let head = &bytes[..bytes.len().min(Envelope::MAX_HEAD)];
        let etag = ETag::new(head, bytes.len() >= LARGE);
        let entry = record.into_entry(self.asked, latest).with_etag(Some(etag));
        Ok((!entry.is_expired(self.keyspace.now())).then_some(entry))
    }
}

/// Reads plain values. Each is read together with the remaining TTL of its key, in a transaction;
/// otherwise the two might not belong together.
pub(crate) async fn read_plain<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    codec: &C,
    keys: Vec<&Key>,
) -> Result<Vec<Result<Option<Entry<V>>>>> {
    let Some(first) = keys.first() else { return Ok(Vec::new()) };
    let names: Vec<Vec<u8>> = keys.iter().map(|key| keyspace.namespace.key(key)).collect();
    let mut read = Pipeline::with_capacity(2 * keys.len());
    for name in &names {
        read.cmd("GET").arg(name).cmd("PTTL").arg(name);
    }
    let asked = keyspace.now();
    let Value::Array(replies) = call.transact(call.link_of(first), read).await? else {
        return Err(unexpected());
    };
    if replies.len() != 2 * keys.len() {
        return Err(unexpected());
    }
    let (mut names, mut replies) = (names.iter(), replies.into_iter());
    let mut entries = Vec::with_capacity(keys.len());
    while let (Some(name), Some(value), Some(remaining)) = (names.next(), replies.next(), replies.next()) {
        entries.push(plain_entry(keyspace, codec, name, value, remaining, asked));
    }
    Ok(entries)
}

/// Returns the entry in a plain value whose key has this name and this TTL.
pub(crate) fn plain_entry<V, C: Codec<V>>(
    keyspace: &Keyspace,
    codec: &C,
    name: &[u8],
    value: Value,
    remaining: Value,
    asked: Moment,
) -> Result<Option<Entry<V>>> {
    let Some(bytes) = reply::bytes(value)? else { return Ok(None) };
    let expiry = Expiry::after(asked, remaining_ttl(remaining)?);
    if expiry.is_past(keyspace.now()) {
        return Ok(None);
    }
    Ok(Some(Entry::new(codec.decode_for(name, &bytes)?, expiry)))
}

/// Parses the reply to PTTL for a key that exists.
pub(crate) fn remaining_ttl(reply: Value) -> Result<Ttl> {
    Ok(match reply::integer(reply)? {
        -1 => Ttl::Never,
        millis => Ttl::After(Duration::from_millis(u64::try_from(millis).unwrap_or(0))),
    })
}
