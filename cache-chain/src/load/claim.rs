//! Claims: which process loads a key.
//!
//! A claim for an absent key is a marker under the key itself, which the loaded entry replaces. A
//! key that is loaded again still has its entry, so its claim is a marker under a key of its own.
//!
//! A claim lives for a few seconds and is renewed while the load runs. So a load of any duration
//! keeps peers off, and a process that dies does so only for these seconds.

use std::{pin::pin, sync::Arc, time::Duration};

use cache_core::{Entry, Key, Ticket};
use tokio::time::Instant;

use crate::{
    read::{Leases, Query, Reader},
    tier::Tier,
    util::{deadline::after, pending::Pending, runtime::RuntimeHandle},
};

/// Which process loads the key.
pub(super) enum ClaimOutcome<V: Clone + Send + Sync + 'static> {
    /// This one, with a claim if a tier has granted one.
    Load(Option<ClaimGuard<V>>),
    /// A peer has: the place of the tier where it has stored the entry, and the entry.
    LoadedByPeer(usize, Entry<V>),
}

/// Which process loads one of several keys.
pub(super) enum BatchClaim<V: Clone + Send + Sync + 'static> {
    /// This one, with a claim if a tier has granted one.
    Load(Option<ClaimGuard<V>>),
    /// A peer has loaded it, as in [`ClaimOutcome`].
    LoadedByPeer(usize, Entry<V>),
    /// A peer is loading it.
    InFlight,
}

/// A claim of this process. Dropped, it is returned, unless it was fulfilled.
pub(super) struct ClaimGuard<V: Clone + Send + Sync + 'static> {
    tiers: Arc<[Tier<V>]>,
    runtime: RuntimeHandle,
    released: Arc<Pending>,
    key: Key,
    place: usize,
    ticket: Ticket,
    is_fulfilled: bool,
}

/// The life of a claim that is not renewed.
const LIFE: Duration = Duration::from_secs(5);

/// The time between two renewals.
const RENEWAL: Duration = Duration::from_secs(1);

/// The shortest and the longest time between two looks at a key that a peer loads.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// By how much an entry must be younger than another one to be the result of a later load. Two
/// copies of one entry may differ a little, because the age of each is an estimate.
const YOUNGER: Duration = Duration::from_millis(50);

/// Waits at most for `peer_wait` until this process may load the absent key, or a peer has loaded
/// it. The first tier that grants claims and is not left out decides; the lease of its claim
/// replaces that of the lookup. If the tier fails, this process loads.
pub(super) async fn acquire_claim<V: Clone + Send + Sync + 'static>(
    reader: &Arc<Reader<V>>,
    (key, query): (&Key, &Query),
    leases: &mut Leases,
    is_left_out: impl Fn(usize) -> bool,
    peer_wait: Option<Duration>,
) -> ClaimOutcome<V> {
    let Some((place, peer_wait)) = claiming_tier(reader, is_left_out).zip(peer_wait) else {
        return ClaimOutcome::Load(None);
    };
    let claimed = |ticket| leases.claimed(place, ticket);
    let accepts = |entry: &Entry<V>| replaces(reader, (place, entry), None, query);
    acquire(reader, place, (key, key), claimed, accepts, peer_wait).await
}

/// As [`acquire_claim`], for a key that has the entry `old`, which is stale or about to expire.
pub(super) async fn acquire_refresh<V: Clone + Send + Sync + 'static>(
    reader: &Arc<Reader<V>>,
    (key, query): (&Key, &Query),
    old: &Entry<V>,
    is_left_out: impl Fn(usize) -> bool,
    peer_wait: Option<Duration>,
) -> ClaimOutcome<V> {
    let place = claiming_tier(reader, is_left_out);
    let Some(((place, peer_wait), marker)) = place.zip(peer_wait).zip(refresh_marker(key)) else {
        return ClaimOutcome::Load(None);
    };
    let accepts = |entry: &Entry<V>| replaces(reader, (place, entry), Some(old), query);
    acquire(reader, place, (key, &marker), |_| {}, accepts, peer_wait).await
}

/// Claims several keys at once, and waits for no peer. `old` has the entries of those that are
/// loaded again. `is_left_out` says whether a key is not claimed in a tier.
pub(super) async fn claim_batch<V: Clone + Send + Sync + 'static>(
    reader: &Arc<Reader<V>>,
    (keys, query): (&[Key], &Query),
    old: &[Option<Entry<V>>],
    leases: &mut [&mut Leases],
    is_left_out: impl Fn(usize, usize) -> bool,
) -> Vec<BatchClaim<V>> {
    let mut outcomes: Vec<_> = keys.iter().map(|_| BatchClaim::Load(None)).collect();
    let place = claiming_tier(reader, |place| (0..keys.len()).all(|at| is_left_out(at, place)));
    let Some(place) = place else { return outcomes };
    let tier = &reader.tiers[place];
    let marker = |at: usize| if old[at].is_none() { Some(keys[at].clone()) } else { refresh_marker(&keys[at]) };
    let asked = (0..keys.len()).filter(|at| !is_left_out(*at, place));
    let (asked, markers): (Vec<usize>, Vec<Key>) = asked.filter_map(|at| Some((at, marker(at)?))).unzip();
    let mut unsure = Vec::new();
    for ((&at, marker), claim) in asked.iter().zip(&markers).zip(tier.claim(&markers, LIFE).await) {
        let Ok(claim) = claim else { continue };
        if old[at].is_none() {
            leases[at].claimed(place, claim.ticket);
        }
        if !claim.granted {
            outcomes[at] = BatchClaim::InFlight;
            continue;
        }
        outcomes[at] = BatchClaim::Load(Some(ClaimGuard::new(reader, place, marker, claim.ticket)));
        if !claim.vacant || old[at].is_some() {
            unsure.push(at);
        }
    }
    // A peer may have ended its load just before.
    let unsure_keys: Vec<Key> = unsure.iter().map(|&at| keys[at].clone()).collect();
    for (at, found) in unsure.into_iter().zip(tier.recheck_many(&unsure_keys).await) {
        let Ok(Some(entry)) = found else { continue };
        if replaces(reader, (place, &entry), old[at].as_ref(), query) {
            outcomes[at] = BatchClaim::LoadedByPeer(place, entry);
        }
    }
    outcomes
}

/// Returns `true` if this entry of a tier is acceptable to the query, and the result of a later load
/// than the old one, which is stale or about to expire.
fn replaces<V: Clone + Send + Sync + 'static>(
    reader: &Reader<V>,
    (place, entry): (usize, &Entry<V>),
    old: Option<&Entry<V>>,
    query: &Query,
) -> bool {
    let is_younger = |old: &Entry<V>| match (entry.created(), old.created()) {
        (Some(new), Some(old)) => new > old.plus(YOUNGER),
        _ => false,
    };
    reader.accepts(&reader.tiers[place], entry, query)
        && old.is_none_or(|old| old.is_stale(reader.clock.now()) || is_younger(old))
}

/// The place of the first tier that grants claims and is not left out.
fn claiming_tier<V: Clone + Send + Sync + 'static>(
    reader: &Reader<V>,
    is_left_out: impl Fn(usize) -> bool,
) -> Option<usize> {
    reader
        .tiers
        .iter()
        .enumerate()
        .find_map(|(place, tier)| (tier.grants_claims() && !is_left_out(place)).then_some(place))
}

/// The key under which a key that has an entry is claimed; `None` if that would be too long.
fn refresh_marker(key: &Key) -> Option<Key> {
    Key::new(&[b"\0refresh:", key.as_bytes()].concat()).ok()
}

/// Claims `marker`, or waits until the tier has an acceptable entry of `key`.
async fn acquire<V: Clone + Send + Sync + 'static>(
    reader: &Arc<Reader<V>>,
    place: usize,
    (key, marker): (&Key, &Key),
    mut claimed: impl FnMut(Ticket),
    accepts: impl Fn(&Entry<V>) -> bool,
    peer_wait: Duration,
) -> ClaimOutcome<V> {
    let tier = &reader.tiers[place];
    let until = after(peer_wait);
    let mut pause = POLL.0;
    loop {
        let Some(Ok(claim)) = tier.claim(std::slice::from_ref(marker), LIFE).await.pop() else {
            return ClaimOutcome::Load(None);
        };
        claimed(claim.ticket);
        let guard = claim.granted.then(|| ClaimGuard::new(reader, place, marker, claim.ticket));
        if guard.is_some() && claim.vacant && key == marker {
            return ClaimOutcome::Load(guard);
        }
        if guard.is_none() {
            if Instant::now() + pause > until {
                return ClaimOutcome::Load(None);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
        // With the claim granted, too: a peer may have ended its load just before.
        match (tier.recheck(key).await, guard) {
            (Ok(Some(entry)), _) if accepts(&entry) => return ClaimOutcome::LoadedByPeer(place, entry),
            (Ok(_), None) => {}
            (_, guard) => return ClaimOutcome::Load(guard),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> ClaimGuard<V> {
    fn new(reader: &Reader<V>, place: usize, marker: &Key, ticket: Ticket) -> Self {
        let (tiers, runtime) = (Arc::clone(&reader.tiers), reader.runtime.clone());
        let released = Arc::clone(&reader.released_claims);
        Self { tiers, runtime, released, key: marker.clone(), place, ticket, is_fulfilled: false }
    }

    /// Keeps the claim: the loaded entry replaces it.
    pub(super) fn fulfil(mut self) {
        self.is_fulfilled = true;
    }
}

/// Runs the work, and renews the claims meanwhile.
pub(super) async fn renewed_during<'a, V, T>(
    claims: impl Iterator<Item = &'a ClaimGuard<V>>,
    work: impl Future<Output = T>,
) -> T
where
    V: Clone + Send + Sync + 'static,
{
    let claims: Vec<&ClaimGuard<V>> = claims.collect();
    let Some(first) = claims.first() else { return work.await };
    let mut work = pin!(work);
    loop {
        if let Ok(output) = tokio::time::timeout(RENEWAL, work.as_mut()).await {
            return output;
        }
        // One tier has granted all of them.
        let (tiers, place) = (Arc::clone(&first.tiers), first.place);
        let markers: Vec<(Key, Ticket)> = claims.iter().map(|claim| (claim.key.clone(), claim.ticket)).collect();
        first.runtime.spawn(async move {
            // If this fails, the claims expire.
            let _ = tiers[place].renew_claims(&markers, LIFE).await;
        });
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for ClaimGuard<V> {
    fn drop(&mut self) {
        if self.is_fulfilled {
            return;
        }
        let (tiers, key, place, ticket) = (Arc::clone(&self.tiers), self.key.clone(), self.place, self.ticket);
        let pending = self.released.begin();
        self.runtime.spawn(async move {
            let _pending = pending;
            // If this fails, the claim expires.
            let _ = tiers[place].release(&key, ticket).await;
        });
    }
}
