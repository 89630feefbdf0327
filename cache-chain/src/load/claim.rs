//! Claims: which process loads a key.

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Key, Ticket};
use tokio::time::Instant;

use crate::{
    read::{Leases, Lookup, Reader},
    util::deadline::after,
};

/// Which process loads the key.
pub(super) enum ClaimOutcome<V: Clone + Send + Sync + 'static> {
    /// This one, with a claim if a tier has granted one.
    Load(Option<ClaimGuard<V>>),
    /// A peer has: the place of the tier where it has stored the entry, and the entry.
    LoadedByPeer(usize, Entry<V>),
}

/// A claim of this process. Dropped, it is returned, unless it was fulfilled.
pub(super) struct ClaimGuard<V: Clone + Send + Sync + 'static> {
    reader: Arc<Reader<V>>,
    key: Key,
    place: usize,
    ticket: Ticket,
    is_fulfilled: bool,
}

/// The shortest and the longest time between two looks at a key that a peer loads.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Waits at most for `peer_wait` until this process may load the key, or a peer has loaded it. The
/// first tier that grants claims decides; the lease of its claim replaces that of the lookup. If
/// the tier fails, this process loads.
pub(super) async fn acquire_claim<V: Clone + Send + Sync + 'static>(
    reader: &Arc<Reader<V>>,
    key: &Key,
    lookup: &Lookup<V>,
    leases: &mut Leases,
    peer_wait: Option<Duration>,
) -> ClaimOutcome<V> {
    let mut tiers = reader.tiers.iter().enumerate();
    let shared = tiers.find(|(place, tier)| tier.grants_claims() && !lookup.has_failed(*place));
    let (Some((place, tier)), Some(peer_wait)) = (shared, peer_wait) else { return ClaimOutcome::Load(None) };
    let until = after(peer_wait);
    let mut pause = POLL.0;
    loop {
        let claim = tier.claim(std::slice::from_ref(key), Duration::MAX).await.pop();
        let Some(Ok(claim)) = claim else { return ClaimOutcome::Load(None) };
        leases.claimed(place, claim.ticket);
        let guard = claim.granted.then(|| ClaimGuard {
            reader: Arc::clone(reader),
            key: key.clone(),
            place,
            ticket: claim.ticket,
            is_fulfilled: false,
        });
        if guard.is_some() && claim.vacant {
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
            (Ok(Some(entry)), _) if tier.is_fresh(&entry) => return ClaimOutcome::LoadedByPeer(place, entry),
            (Ok(_), None) => {}
            (_, guard) => return ClaimOutcome::Load(guard),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> ClaimGuard<V> {
    /// Keeps the claim: the loaded entry replaces it.
    pub(super) fn fulfil(mut self) {
        self.is_fulfilled = true;
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for ClaimGuard<V> {
    fn drop(&mut self) {
        if self.is_fulfilled {
            return;
        }
        let (reader, key, place, ticket) = (Arc::clone(&self.reader), self.key.clone(), self.place, self.ticket);
        self.reader.runtime.spawn(async move {
            // If this fails, the claim expires.
            let _ = reader.tiers[place].release(&key, ticket).await;
        });
    }
}
