//! Checks whether entries that a caller has are still current.

use cache_core::{
    Codec, Key, Result, Revalidated,
    backend::{ETag, Envelope},
};

use crate::{
    keyspace::Keyspace,
    read::{etag_of, is_future, read},
    table::{identity::Identity, rows::Rows, select::Select},
};

/// Reads the entries of the keys. Returns `NotModified` for each whose version is the caller's.
///
/// Reads only the heads of large values; those that have changed are read by a second statement.
pub(crate) async fn revalidate<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    keys: &[(Key, Option<ETag>)],
) -> Result<Vec<Result<Revalidated<V>>>> {
    let is_current = are_current(keyspace, keys).await?;
    let others: Vec<Key> =
        keys.iter().zip(&is_current).filter(|(_, is_current)| !**is_current).map(|((key, _), _)| key.clone()).collect();
    let read = if others.is_empty() { Vec::new() } else { read(keyspace, envelope, &others).await? };
    let mut read = read.into_iter();
    let answer = |((_, etag), is_current): (&(Key, Option<ETag>), bool)| {
        if is_current {
            return Some(Ok(Revalidated::NotModified));
        }
        read.next().map(|entry| match entry? {
            Some(entry) if etag.is_some() && entry.etag() == *etag => Ok(Revalidated::NotModified),
            entry => Ok(Revalidated::Modified(entry)),
        })
    };
    Ok(keys.iter().zip(is_current).filter_map(answer).collect())
}

/// Returns for each key whether its version is that of a large value, and the row still has it and has
/// not expired.
async fn are_current(keyspace: &Keyspace, keys: &[(Key, Option<ETag>)]) -> Result<Vec<bool>> {
    let large = |etag: &Option<ETag>| etag.filter(|etag| etag.is_large());
    let identities: Vec<Identity> =
        keys.iter().filter(|(_, etag)| large(etag).is_some()).map(|(key, _)| Identity::of(key)).collect();
    if identities.is_empty() {
        return Ok(vec![false; keys.len()]);
    }
    let select = Select { rows: &keyspace.rows, identities: &identities, statement: Rows::select_heads };
    let found = keyspace.run(&select).await?;
    let mut identities = identities.iter();
    let is_current = |(_, etag): &(Key, Option<ETag>)| {
        let (Some(etag), Some(identity)) = (large(etag), large(etag).and_then(|_| identities.next())) else {
            return false;
        };
        found
            .get(&identity.id)
            .is_some_and(|row| row.full_key == identity.full_key && !is_future(row) && etag_of(row, true) == Some(etag))
    };
    Ok(keys.iter().map(is_current).collect())
}
