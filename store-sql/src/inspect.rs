//! Describes what is stored under a key.

use std::{slice, time::Duration};

use cache_core::{
    Key, Result, Ttl,
    backend::{Description, Envelope, Inspection, Life},
};

use crate::{
    keyspace::Keyspace,
    table::{identity::Identity, rows::Rows, select::Select},
};

pub(crate) async fn inspect(keyspace: &Keyspace, key: &Key) -> Result<Option<Inspection>> {
    let identity = Identity::of(key);
    let select = |statement| Select { rows: &keyspace.rows, identities: slice::from_ref(&identity), statement };
    let found = keyspace.run(&select(Rows::select_any)).await?;
    let Some(row) = found.get(&identity.id).filter(|row| row.full_key == identity.full_key) else { return Ok(None) };
    let millis = |millis: i64| u64::try_from(millis).unwrap_or(0);
    let ttl = row.number.map_or(Ttl::Never, |left| Ttl::After(Duration::from_millis(millis(left))));
    let ttl = Some(ttl);
    let written_at = row.written_at.map_or(0, millis);
    let Some(bytes) = &row.value else {
        // The write id tells a lease from a claim. A marker that has expired is as good as none.
        let found = keyspace.run(&select(Rows::select_ids_of_markers)).await?;
        let write_id = found.get(&identity.id).and_then(|row| row.number);
        let marker = write_id.map(|id| Ok(Description::of_marker(id.cast_unsigned(), Life::new(written_at, None))));
        return Ok(marker.map(|marker| Inspection::new(0, ttl, Some(marker))));
    };
    let record = Envelope::describe(key.as_bytes(), bytes).map(|mut record| {
        // The times in the record count from the writing of the row.
        let Life { created, expires, stale, .. } = &mut record.life;
        *created = created.saturating_add(written_at);
        for time in [expires, stale].into_iter().flatten() {
            *time = time.saturating_add(written_at);
        }
        record
    });
    Ok(Some(Inspection::new(bytes.len(), ttl, Some(record))))
}
