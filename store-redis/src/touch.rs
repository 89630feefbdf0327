//! Changes the lifetimes of entries.

use cache_core::{
    Codec, Entry, Key, Lifetime, Moment, Result,
    backend::{Envelope, Life, Peeked, only},
};
use redis::{Pipeline, Value, cmd};

use crate::{
    connection::{call::Call, reply, server::ServerSnapshot},
    keyspace::Keyspace,
    read::Records,
    record::scripts,
};

/// The reply to PTTL for a key that does not exist.
const NO_KEY: i64 = -2;

/// Changes the lifetime of a record.
pub(crate) async fn touch_record<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    envelope: &Envelope<C>,
    key: &Key,
    lifetime: Lifetime,
    now: Moment,
) -> Result<bool> {
    match replace_head(keyspace, call.clone(), envelope, key, lifetime, now).await? {
        Some(touched) => Ok(touched),
        None => replace_record(keyspace, call, envelope, key, lifetime, now).await,
    }
}

/// Reads the head of the record and its length, and writes another head over it. Returns `None` if
/// the record must be read and replaced as a whole.
async fn replace_head<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    envelope: &Envelope<C>,
    key: &Key,
    lifetime: Lifetime,
    now: Moment,
) -> Result<Option<bool>> {
    let link = call.link_of(key);
    let server = call.take_snapshot(link).await?;
    let name = keyspace.namespace.key(key);
    let asked = keyspace.now();
    let (mut prefix, mut length) = (cmd("GETRANGE"), cmd("STRLEN"));
    prefix.arg(&name).arg(0).arg(Envelope::MAX_HEAD - 1);
    length.arg(&name);
    let mut replies = call.send_all(&[], Some(server), vec![(link, prefix), (link, length)]).await;
    let (length, prefix) = (reply::integer(only(replies.split_off(1))?)?, reply::bytes(only(replies)?)?);
    let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) else { return Ok(Some(false)) };
    let length = usize::try_from(length).unwrap_or_default();
    let head = match envelope.peek::<V>(&prefix, length) {
        Peeked::Value(head) => head,
        Peeked::NoValue => return Ok(Some(false)),
        Peeked::Unknown => return Ok(None),
    };
    let latest = server.latest(asked);
    let current = head.life().entry(Some(()), asked, latest);
    let counts = server.admits(Envelope::epoch(head.bytes()), head.life(), latest);
    if !counts || current.is_expired(keyspace.now()) || current.is_stale(now) {
        return Ok(Some(false));
    }
    let Some(life) = life_of(keyspace, lifetime, server) else { return Ok(Some(false)) };
    let Some(new_head) = head.with_lifetime(life.expires, life.stale) else { return Ok(None) };
    let writing = keyspace.publication.writing();
    let mut touch = writing.run(&scripts::TOUCH, &name);
    touch.arg(head.bytes()).arg(length).arg(new_head);
    if let Some(millis) = life.ttl_millis() {
        touch.arg(millis);
    }
    let touched = call.send_all(&[writing.script(&scripts::TOUCH)], Some(server), vec![(link, touch)]).await;
    Ok(Some(reply::integer(only(touched)?)? == 1))
}

/// Reads the record, and replaces it by one with the same write id.
///
/// This is not a fill: the ticket of a fill stays valid when another fill brings a newer value,
/// which must not be undone.
async fn replace_record<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    envelope: &Envelope<C>,
    key: &Key,
    lifetime: Lifetime,
    now: Moment,
) -> Result<bool> {
    let link = call.link_of(key);
    let server = call.take_snapshot(link).await?;
    let name = keyspace.namespace.key(key);
    let asked = keyspace.now();
    let mut get = cmd("GET");
    get.arg(&name);
    let reply = only(call.send_all(&[], Some(server), vec![(link, get)]).await)?;
    let Value::BulkString(record) = &reply else { return reply::bytes(reply).map(|_| false) };
    // A record without an epoch may be of an earlier run of the server. It must not become one of
    // this run.
    let is_bound = Envelope::epoch(record).is_some();
    let (head, length) = (record[..record.len().min(Envelope::MAX_HEAD)].to_vec(), record.len());
    let records = Records { keyspace, envelope, call, link, asked, server: Some(server) };
    let Some(entry) = records.open(&name, reply).await? else { return Ok(false) };
    if !is_bound || entry.is_absent() || entry.is_stale(now) {
        return Ok(false);
    }
    let entry = entry.with_lifetime(lifetime);
    let now = keyspace.now();
    let Some(life) = Life::of_fill(&entry, now, server.earliest_micros(now)) else { return Ok(false) };
    let id = u64::from_le_bytes(head[Envelope::WRITE_ID].try_into().expect("eight bytes"));
    let record = envelope.seal_entry(server.validity.binding(&name), &entry, life, id)?;
    let writing = keyspace.publication.writing();
    let mut replace = writing.run(&scripts::REPLACE, &name);
    // The head has a checksum of the whole record.
    replace.arg(head).arg(length).arg(record);
    if let Some(millis) = life.ttl_millis() {
        replace.arg("PX").arg(millis);
    }
    let script = writing.script(&scripts::REPLACE);
    let replaced = records.call.send_all(&[script], Some(server), vec![(link, replace)]).await;
    Ok(reply::integer(only(replaced)?)? == 1)
}

/// Changes the TTL of the key of a plain value. It does not look at the value.
pub(crate) async fn touch_plain(keyspace: &Keyspace, call: Call, key: &Key, lifetime: Lifetime) -> Result<bool> {
    let link = call.link_of(key);
    let server = call.take_snapshot(link).await?;
    let Some(life) = life_of(keyspace, lifetime, server) else { return Ok(false) };
    let writing = keyspace.publication.writing();
    if life.stale == Some(life.created) {
        // A plain value cannot tell that it is stale, so it is removed, as by a set.
        let unlink = vec![keyspace.unlink(&call, &writing, key)];
        only(call.send_all(&writing.scripts(None), Some(server), unlink).await)?;
        return Ok(false);
    }
    let name = keyspace.namespace.key(key);
    // As for a set, the value is removed when it turns stale.
    // The time is that of this server.
    let end = life.stale.or(life.expires);
    if writing.is_announced {
        let mut touch = writing.run(&scripts::TOUCH_PLAIN, &name);
        touch.arg(end);
        let script = writing.script(&scripts::TOUCH_PLAIN);
        let touched = call.send_all(&[script], Some(server), vec![(link, touch)]).await;
        return Ok(reply::integer(only(touched)?)? == 1);
    }
    if let Some(end) = end {
        let mut expire = cmd("PEXPIREAT");
        expire.arg(&name).arg(end);
        let expires = only(call.send_all(&[], Some(server), vec![(link, expire)]).await)?;
        return Ok(reply::integer(expires)? == 1);
    }
    // PERSIST does not tell a missing key from one without a TTL.
    let mut persist = Pipeline::with_capacity(2);
    persist.cmd("PTTL").arg(&name).cmd("PERSIST").arg(&name);
    let [remaining, _] = reply::array(call.transact(link, persist).await?)?;
    Ok(reply::integer(remaining)? != NO_KEY)
}

/// Returns the life that an entry with this lifetime has if it is written now. Returns `None` if
/// less than a millisecond of it remains.
fn life_of(keyspace: &Keyspace, lifetime: Lifetime, server: ServerSnapshot) -> Option<Life> {
    let now = keyspace.now();
    let entry = Entry::new((), lifetime.expiry).fresh_until(lifetime.fresh_until);
    Life::of_fill(&entry, now, server.earliest_micros(now))
}
