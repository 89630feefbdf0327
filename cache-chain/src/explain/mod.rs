//! Explanations: what each tier holds of a key, and what a read would do about it.

mod decide;
mod text;

use std::{sync::Arc, time::Duration};

use cache_core::{
    Entry, Error, ErrorKind, Key, Ttl,
    backend::{Content, Inspection},
};

use crate::{load::Loader, read::Reader, stats::BreakerState, tier::Tier};

/// What a chain holds of a key, and what reads of the key would do now. From
/// [`ChainCache::explain`](crate::ChainCache::explain).
///
/// `Display` writes it as lines of text. Neither shows the value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// The tiers, from the first down.
    pub tiers: Vec<ExplainedTier>,
    /// What [`get`](crate::ChainCache::get) would do.
    pub get: Decision,
    /// What [`get_or_load`](crate::ChainCache::get_or_load) would do.
    pub get_or_load: Decision,
}

/// One tier in an [`Explanation`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExplainedTier {
    /// The name of the tier.
    pub name: String,
    /// What it holds.
    pub held: Held,
    /// The time since the value was loaded or set, if there is one and its age is known.
    pub age: Option<Duration>,
    /// The time until the value turns stale, `None` without one.
    pub fresh_for: Option<Ttl>,
    /// The time until the value expires, `None` without one.
    pub ttl: Option<Ttl>,
    /// What is stored under the key: its size, and what the record says about itself. `None` if
    /// nothing is, or if the store does not tell, as those in memory.
    pub stored: Option<Inspection>,
    /// Whether a read may use what the tier holds.
    pub trust: Trust,
    /// The state of the circuit breaker, `None` without one.
    pub breaker: Option<BreakerState>,
}

/// What a tier holds of a key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Held {
    /// Nothing.
    Nothing,
    /// A value, fresh or stale.
    Value,
    /// The fact that there is no value, from a loader that has found none.
    Absence,
    /// The marker of a lease or a claim.
    Marker(Content),
    /// A record that has expired, or was written in an earlier run of the server.
    Void,
    /// Bytes that do not decode, which reads take for a miss.
    Undecodable(Error),
    /// Unknown, because the tier has failed.
    Unknown(Error),
}

/// Whether a read may use what a tier holds of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Trust {
    /// It may.
    Trusted,
    /// The key has changed in the shared tier, or a change may have been missed. A read asks the
    /// shared tier.
    Suspect {
        /// `true` if the entry is served while the shared tier cannot be reached; see
        /// [`Coherence::grace`](crate::Coherence::grace).
        in_grace: bool,
    },
    /// It may be older than a failed write, and is to be deleted.
    AwaitsDelete,
}

/// What a read would do, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Decision {
    /// What it would do.
    pub action: Action,
    /// Why, in words.
    pub reason: String,
}

/// What a read would do.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Return what this tier holds: a value, or the fact that there is none.
    Serve {
        /// The name of the tier.
        tier: String,
    },
    /// Return the stale value of this tier.
    ServeStale {
        /// The name of the tier.
        tier: String,
    },
    /// Return nothing.
    Miss,
    /// Delete the key from this tier, where a failed write may have left an older value. Then return
    /// nothing, or the error if that fails.
    Repair {
        /// The name of the tier.
        tier: String,
    },
    /// Call the loader.
    Load,
    /// Wait for the load of the key that goes on in this process.
    Join,
    /// Wait for another process, which has claimed the load in this tier, and call the loader if
    /// that takes too long or fails.
    Wait {
        /// The name of the tier.
        tier: String,
    },
    /// Return an error of this kind.
    Fail(ErrorKind),
}

/// What is known of one tier.
struct Finding<V> {
    explained: ExplainedTier,
    /// What a read gets from the tier.
    answer: Result<Option<Entry<V>>, Error>,
    /// What the tier holds, also if a read does not get it.
    held: Option<Entry<V>>,
    /// `true` if a read first deletes the key there.
    is_repaired: bool,
}

/// Explains a key.
pub(crate) async fn explain<V: Clone + Send + Sync + 'static>(
    reader: &Arc<Reader<V>>,
    loader: &Loader<V>,
    key: &Key,
) -> Explanation {
    let mut findings = Vec::with_capacity(reader.tiers.len());
    for place in 0..reader.tiers.len() {
        findings.push(find(reader, place, key).await);
    }
    let get = decide::get(reader, &findings, key);
    let get_or_load = decide::get_or_load(reader, loader, &findings, key);
    Explanation { tiers: findings.into_iter().map(|finding| finding.explained).collect(), get, get_or_load }
}

async fn find<V: Clone + Send + Sync + 'static>(reader: &Reader<V>, place: usize, key: &Key) -> Finding<V> {
    let tier = &reader.tiers[place];
    let observed = tier.observe(key, reader.time_for(place)).await;
    let held = observed.entry.as_ref().ok().cloned().flatten();
    let trust = trust(tier, key, held.as_ref());
    let breaker = tier.breaker_state();
    let name = tier.title().to_string();
    let awaits_delete = tier.awaits_delete(key);
    let refusal = tier.refusal();
    let has_answered = observed.entry.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Codec);
    let is_repaired = awaits_delete && refusal.is_none() && has_answered && tier.may_repair();
    let answer = match (&observed.entry, refusal) {
        (_, Some(refusal)) => Err(refusal),
        (Err(error), None) if !has_answered => Err(error.clone()),
        _ if awaits_delete => {
            let message = format!("tier {name} may hold an older value of the key after a failed write");
            Err(Error::new(ErrorKind::Unavailable, message))
        }
        _ => Ok(held.clone().filter(|_| trust == Trust::Trusted)),
    };
    let now = reader.clock.now();
    let entry = held.as_ref();
    let explained = ExplainedTier {
        age: entry.and_then(|entry| entry.created().map(|created| now.since(created))),
        fresh_for: entry.map(|entry| entry.stale_at().remaining(now)),
        ttl: entry.map(|entry| entry.remaining(now)),
        held: what_is_held(observed.entry, observed.stored.as_ref()),
        stored: observed.stored,
        name,
        trust,
        breaker,
    };
    Finding { explained, answer, held, is_repaired }
}

fn trust<V: Clone + Send + Sync + 'static>(tier: &Tier<V>, key: &Key, held: Option<&Entry<V>>) -> Trust {
    match (tier.first(), held) {
        (Some(first), Some(entry)) if !first.is_current(key, entry) => {
            Trust::Suspect { in_grace: first.is_in_grace(key, entry) }
        }
        _ if tier.awaits_delete(key) || held.is_some_and(|entry| tier.rejects(entry)) => Trust::AwaitsDelete,
        _ => Trust::Trusted,
    }
}

fn what_is_held<V>(entry: cache_core::Result<Option<Entry<V>>>, stored: Option<&Inspection>) -> Held {
    let content = stored.and_then(|stored| stored.record.as_ref()?.as_ref().ok()).map(|record| record.content);
    match entry {
        Ok(Some(entry)) if entry.is_absent() => Held::Absence,
        Ok(Some(_)) => Held::Value,
        Ok(None) => match content {
            Some(marker @ (Content::Lease | Content::Claim)) => Held::Marker(marker),
            _ if stored.is_some() => Held::Void,
            _ => Held::Nothing,
        },
        Err(error) if error.kind() == ErrorKind::Codec => Held::Undecodable(error),
        Err(error) => Held::Unknown(error),
    }
}
