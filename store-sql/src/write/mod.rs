//! Fills, sets and removes entries.

mod install;
mod remove;

use std::collections::BTreeMap;

use cache_core::{
    Codec, Key, Result, Write,
    backend::{Binding, Envelope, Life, refused_for_room, with_removal, write_id},
};

use self::{
    install::{Install, OnVoidTicket, Plan, Put},
    remove::Remove,
};
use crate::{
    keyspace::{Keyspace, Now},
    table::identity::Identity,
};

pub(crate) async fn fill<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    writes: &[Write<V>],
) -> Vec<Result<bool>> {
    let now = match keyspace.now(writes).await {
        Ok(now) => now,
        Err(error) => return vec![Err(error); writes.len()],
    };
    let plan = |write: &Write<V>| {
        let Some(life) = Life::of_fill(&write.entry, now.local, now.database % 1000) else { return Ok(None) };
        let ticket = write.ticket.version();
        // The id stays the ticket's: a fill voids no other ticket.
        let put = seal(envelope, write, life, now, ticket.unwrap_or_else(write_id::next))?;
        Ok(Some(Plan { identity: Identity::of(&write.key), ticket, put: Some(put) }))
    };
    let plans = writes.iter().map(plan).collect();
    install(keyspace, plans, OnVoidTicket::Keep).await
}

pub(crate) async fn set<V, C: Codec<V>>(
    keyspace: &Keyspace,
    envelope: &Envelope<C>,
    writes: &[Write<V>],
) -> Vec<Result<()>> {
    let now = match keyspace.now(writes).await {
        Ok(now) => now,
        Err(error) => return vec![Err(error); writes.len()],
    };
    let mut errors = Vec::with_capacity(writes.len());
    let mut plans = Vec::with_capacity(writes.len());
    for write in writes {
        let life = Life::of_set(&write.entry, now.local, now.database % 1000);
        let put = life.map(|life| seal(envelope, write, life, now, write_id::next())).transpose();
        // If the new entry cannot be written, the older one is removed.
        let (put, error) = put.map_or_else(|error| (None, Some(error)), |put| (put, None));
        plans.push(Ok(Some(Plan { identity: Identity::of(&write.key), ticket: write.ticket.version(), put })));
        errors.push(error);
    }
    let done = install(keyspace, plans, OnVoidTicket::Remove).await;
    let mut results: Vec<Result<()>> =
        done.into_iter().zip(errors).map(|(done, error)| error.map_or(done.map(drop), Err)).collect();
    remove_refused(keyspace, writes, &mut results).await;
    results
}

pub(crate) async fn remove(keyspace: &Keyspace, keys: &[Key]) -> Result<()> {
    let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
    keyspace.run(&Remove { rows: &keyspace.rows, identities: &identities }).await
}

/// Returns the entry as a record whose times count from zero, which is the row's `written_at`.
fn seal<V, C: Codec<V>>(envelope: &Envelope<C>, write: &Write<V>, life: Life, now: Now, write_id: u64) -> Result<Put> {
    // A database that is restored from a backup goes back as a whole, so one epoch is enough.
    let binding = Binding::new(write.key.as_bytes(), 0);
    let record = envelope.seal_entry(binding, &write.entry, life, write_id)?;
    Ok(Put { record, written: now.database / 1000, millis: life.ttl_millis(), write_id })
}

/// Removes the older entries of the keys whose new entries the database had no room for. It mostly
/// accepts a removal even then.
async fn remove_refused<V>(keyspace: &Keyspace, writes: &[Write<V>], results: &mut [Result<()>]) {
    let refused = refused_for_room(results);
    if refused.is_empty() {
        return;
    }
    let identities: Vec<Identity> = refused.iter().map(|&at| Identity::of(&writes[at].key)).collect();
    let removed = keyspace.run(&Remove { rows: &keyspace.rows, identities: &identities }).await.is_ok();
    for at in refused {
        if let Err(error) = &results[at] {
            results[at] = Err(with_removal(error, removed));
        }
    }
}

/// Executes the plans and returns one result each. A key that occurs again is written by a
/// transaction of its own, so that a batch has the effect of its writes one after the other.
async fn install(
    keyspace: &Keyspace,
    plans: Vec<Result<Option<Plan>>>,
    on_void_ticket: OnVoidTicket,
) -> Vec<Result<bool>> {
    let mut results: Vec<Result<bool>> = Vec::with_capacity(plans.len());
    let mut group = BTreeMap::<Vec<u8>, (usize, Plan)>::new();
    for (at, plan) in plans.into_iter().enumerate() {
        let plan = match plan {
            Ok(plan) => {
                results.push(Ok(false));
                plan
            }
            Err(error) => {
                results.push(Err(error));
                None
            }
        };
        let Some(plan) = plan else { continue };
        if group.contains_key(&plan.identity.id) {
            install_group(keyspace, std::mem::take(&mut group), on_void_ticket, &mut results).await;
        }
        group.insert(plan.identity.id.clone(), (at, plan));
    }
    install_group(keyspace, group, on_void_ticket, &mut results).await;
    results
}

async fn install_group(
    keyspace: &Keyspace,
    group: BTreeMap<Vec<u8>, (usize, Plan)>,
    on_void_ticket: OnVoidTicket,
    results: &mut [Result<bool>],
) {
    if group.is_empty() {
        return;
    }
    let (positions, plans): (Vec<usize>, Vec<Plan>) = group.into_values().unzip();
    match keyspace.run(&Install { rows: &keyspace.rows, plans: &plans, on_void_ticket }).await {
        Ok(installed) => {
            for (at, installed) in positions.into_iter().zip(installed) {
                results[at] = Ok(installed);
            }
        }
        Err(error) => positions.into_iter().for_each(|at| results[at] = Err(error.clone())),
    }
}
