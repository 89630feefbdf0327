//! Checks whether entries that a caller has are still current.

use std::collections::HashMap;

use cache_core::{
    Codec, Key, Result, Revalidated,
    backend::{ETag, Envelope, Peeked},
};
use redis::cmd;

use crate::{
    connection::{call::Call, reply},
    keyspace::Keyspace,
    read::read_records,
};

/// Returns the entries of the keys, or that the version which the caller has is current. Reads only
/// the heads of large records; those that have changed are read in a second round trip.
pub(crate) async fn revalidate<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    envelope: &Envelope<C>,
    keys: Vec<&(Key, Option<ETag>)>,
) -> Result<Vec<Result<Revalidated<V>>>> {
    let large: Vec<(&Key, ETag)> =
        keys.iter().filter_map(|(key, etag)| Some((key, etag.filter(|etag| etag.is_large())?))).collect();
    let current = find_current(keyspace, &call, envelope, &large).await?;
    let changed: Vec<&Key> = keys.iter().map(|(key, _)| key).filter(|key| !current.contains_key(*key)).collect();
    let mut read = read_records(keyspace, call, envelope, changed).await?.into_iter();
    let answer = |(key, etag): &&(Key, Option<ETag>)| match current.get(key) {
        Some(Ok(())) => Some(Ok(Revalidated::NotModified)),
        Some(Err(error)) => Some(Err(error.clone())),
        None => read.next().map(|entry| match entry? {
            Some(entry) if etag.is_some() && entry.etag() == *etag => Ok(Revalidated::NotModified),
            entry => Ok(Revalidated::Modified(entry)),
        }),
    };
    Ok(keys.iter().filter_map(answer).collect())
}

/// Returns the keys whose records still have this version and are valid, and those whose check has
/// failed.
async fn find_current<'a, V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: &Call,
    envelope: &Envelope<C>,
    keys: &[(&'a Key, ETag)],
) -> Result<HashMap<&'a Key, Result<()>>> {
    let mut current = HashMap::new();
    if keys.is_empty() {
        return Ok(current);
    }
    let head = |(key, _): &(&Key, ETag)| {
        let mut head = cmd("GETRANGE");
        head.arg(keyspace.namespace.key(key)).arg(0).arg(Envelope::MAX_HEAD - 1);
        (call.link_of(key), head)
    };
    let asked = keyspace.now();
    let heads = call.send_all(&[], None, keys.iter().map(head).collect()).await;
    for ((key, etag), head) in keys.iter().zip(heads) {
        let checked = async {
            let Some(head) = reply::bytes(head?)?.filter(|head| ETag::new(head, true) == *etag) else {
                return Ok(false);
            };
            let Peeked::Value(peeked) = envelope.peek::<V>(&head, head.len()) else { return Ok(false) };
            let server = call.take_snapshot(call.link_of(key)).await?;
            Ok(server.admits(Envelope::epoch(&head), peeked.life(), server.latest(asked)))
        };
        match checked.await {
            Ok(false) => {}
            checked => _ = current.insert(*key, checked.map(drop)),
        }
    }
    Ok(current)
}
