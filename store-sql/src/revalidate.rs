//! Checks whether entries that a caller has are still current.

use std::collections::HashSet;

use cache_core::{
    Codec, Key, Result, Revalidated,
    backend::{ETag, Envelope},
};

use crate::{
    keyspace::Keyspace,
    read::{etag_of, is_future, read},
    table::{identity::Identity, rows::Rows, select::Select},
};

/// Returns the entries of the keys, or that the version which the caller has is current. Reads only
/// the heads of large values; those that have changed are read by a second statement.
pub(crate) async fn revalidate<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    keys: &[(Key, Option<ETag>)],
) -> Result<Vec<Result<Revalidated<V>>>> {
    let large: Vec<(&Key, ETag)> =
        keys.iter().filter_map(|(key, etag)| Some((key, etag.filter(|etag| etag.is_large())?))).collect();
    let current = find_current(keyspace, &large).await?;
    let others: Vec<Key> = keys.iter().map(|(key, _)| key).filter(|key| !current.contains(*key)).cloned().collect();
    let read = if others.is_empty() { Vec::new() } else { read(keyspace, envelope, &others).await? };
    let mut read = read.into_iter();
    let answer = |(key, etag): &(Key, Option<ETag>)| {
        if current.contains(key) {
            return Some(Ok(Revalidated::NotModified));
        }
        read.next().map(|entry| match entry? {
            Some(entry) if etag.is_some() && entry.etag() == *etag => Ok(Revalidated::NotModified),
            entry => Ok(Revalidated::Modified(entry)),
        })
    };
    Ok(keys.iter().filter_map(answer).collect())
}

/// Returns the keys whose rows still have this version and have not expired.
async fn find_current<'a>(keyspace: &Keyspace, keys: &[(&'a Key, ETag)]) -> Result<HashSet<&'a Key>> {
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    let identities: Vec<Identity> = keys.iter().map(|(key, _)| Identity::of(key)).collect();
    let select = Select { rows: &keyspace.rows, identities: &identities, statement: Rows::select_heads };
    let found = keyspace.run(&select).await?;
    let is_current = |((_, etag), identity): &(&(&Key, ETag), &Identity)| {
        found.get(&identity.id).is_some_and(|row| {
            row.full_key == identity.full_key && !is_future(row) && etag_of(row, true) == Some(*etag)
        })
    };
    Ok(keys.iter().zip(&identities).filter(is_current).map(|((key, _), _)| *key).collect())
}
