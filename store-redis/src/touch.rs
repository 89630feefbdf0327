//! Changes the lifetimes of entries in place.
//!
//! The functions return `None` if the entry must be read and filled instead.

use cache_core::{
    Codec, Entry, Key, Lifetime, Moment, Result,
    backend::{Envelope, Life, Peeked, only},
};
use redis::{Pipeline, cmd};

use crate::{
    connection::{reply, server::ServerSnapshot},
    keyspace::Keyspace,
    record::scripts,
};

/// The reply to PTTL for a key that does not exist.
const NO_KEY: i64 = -2;

/// Changes the lifetime of a record: reads the head of the record and its length, and writes
/// another head over it.
pub(crate) async fn touch_record<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    key: &Key,
    lifetime: Lifetime,
    now: Moment,
) -> Result<Option<bool>> {
    let (call, link) = (keyspace.call(), keyspace.link_of(key));
    let server = call.take_snapshot(link).await?;
    let name = keyspace.namespace.key(key);
    let asked = keyspace.now();
    let (mut prefix, mut length) = (cmd("GETRANGE"), cmd("STRLEN"));
    prefix.arg(&name).arg(0).arg(Envelope::MAX_HEAD - 1);
    length.arg(&name);
    let mut replies = call.send_all(&[], Some(server), vec![(link, prefix), (link, length)]).await;
    let (length, prefix) = (reply::integer(only(replies.split_off(1))?)?, reply::bytes(only(replies)?)?);
    let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) else { return Ok(Some(false)) };
    let head = match envelope.peek::<V>(&prefix, usize::try_from(length).unwrap_or_default()) {
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

/// Changes the TTL of the key of a plain value. It does not look at the value.
pub(crate) async fn touch_plain(keyspace: &Keyspace, key: &Key, lifetime: Lifetime) -> Result<Option<bool>> {
    let (call, link) = (keyspace.call(), keyspace.link_of(key));
    let server = call.take_snapshot(link).await?;
    let Some(life) = life_of(keyspace, lifetime, server) else { return Ok(Some(false)) };
    if life.stale == Some(life.created) {
        // A plain value cannot tell that it is stale.
        return Ok(None);
    }
    let name = keyspace.namespace.key(key);
    // As for a set, the value is removed when it turns stale.
    let end = life.stale.or(life.expires);
    let writing = keyspace.publication.writing();
    if writing.is_announced {
        let mut touch = writing.run(&scripts::TOUCH_PLAIN, &name);
        touch.arg(end);
        let touched = call.send_all(&[writing.script(&scripts::TOUCH_PLAIN)], None, vec![(link, touch)]).await;
        return Ok(Some(reply::integer(only(touched)?)? == 1));
    }
    let mut touch = Pipeline::with_capacity(2);
    if let Some(end) = end {
        touch.cmd("PEXPIREAT").arg(&name).arg(end);
        return Ok(Some(reply::integer(call.ask(link, &touch).await?)? == 1));
    }
    // PERSIST does not tell a missing key from one without a TTL.
    touch.atomic().cmd("PTTL").arg(&name).cmd("PERSIST").arg(&name);
    let [remaining, _] = reply::array(call.ask(link, &touch).await?)?;
    Ok(Some(reply::integer(remaining)? != NO_KEY))
}

/// Returns the life that an entry with this lifetime has if it is written now. Returns `None` if
/// less than a millisecond of it remains.
fn life_of(keyspace: &Keyspace, lifetime: Lifetime, server: ServerSnapshot) -> Option<Life> {
    let now = keyspace.now();
    let entry = Entry::new((), lifetime.expiry).fresh_until(lifetime.fresh_until);
    Life::of_fill(&entry, now, server.earliest_micros(now))
}
