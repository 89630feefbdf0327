//! Whose turn it is to load a key, between processes.

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Key, Ticket};
use tokio::time::Instant;

use crate::{budget::after, chain::Inner, leases::Leases, read::Looked};

/// Whose turn it was.
pub(crate) enum Turn<V: Clone + Send + Sync + 'static> {
    /// Ours, by this claim if there was one to get.
    Ours(Option<Held<V>>),
    /// Another's, who has stored this in the tier of this place.
    Theirs(usize, Entry<V>),
}

/// A claim that this process holds. It is given back when dropped, unless it was fulfilled.
pub(crate) struct Held<V: Clone + Send + Sync + 'static> {
    inner: Arc<Inner<V>>,
    key: Key,
    at: usize,
    ticket: Ticket,
    /// Whether it is to be given back.
    kept: bool,
}

/// How long to wait before looking again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    /// Waits until this process may load the key, or another has. The first tier that grants claims decides; its ticket takes
    /// the place of the one that was drawn before.
    pub(crate) async fn turn(self: &Arc<Self>, key: &Key, looked: &Looked<V>, tickets: &mut Leases) -> Turn<V> {
        let works = |at: usize| looked.failed.iter().all(|(failed, _)| *failed != at);
        let shared = self.tiers.iter().enumerate().find(|(at, tier)| tier.store.profile().claims && works(*at));
        let (Some((at, tier)), false) = (shared, self.read_through.patience.is_zero()) else { return Turn::Ours(None) };
        let until = after(self.read_through.patience);
        let mut pause = PAUSES.0;
        loop {
            // Where it fails, every process may load.
            let Ok(claim) = tier.claim(key, tier.read_timeout).await else { return Turn::Ours(None) };
            tickets.claimed(at, claim.ticket);
            let ticket = claim.ticket;
            let held =
                claim.granted.then(|| Held { inner: Arc::clone(self), key: key.clone(), at, ticket, kept: true });
            if held.is_none() {
                if Instant::now() + pause > until {
                    return Turn::Ours(None);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            // Who has got the claim looks, too: another may have come to the end of a load just before.
            match tier.look_up(key, None, tier.read_timeout).await {
                Ok(seen) => match (seen.entry.filter(|entry| tier.is_fresh(entry)), held) {
                    (Some(entry), _) => return Turn::Theirs(at, entry),
                    (None, Some(held)) => return Turn::Ours(Some(held)),
                    (None, None) => {}
                },
                Err(_) => return Turn::Ours(held),
            }
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Held<V> {
    /// What was loaded is on its way into the tier.
    pub(crate) fn fulfilled(mut self) {
        self.kept = false;
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for Held<V> {
    fn drop(&mut self) {
        if !self.kept {
            return;
        }
        let Self { inner, key, at, ticket, .. } = self;
        let (inner, key, at, ticket) = (Arc::clone(inner), key.clone(), *at, *ticket);
        self.inner.ground.spawn(async move {
            // If it fails, the claim runs out by itself.
            let _ = inner.tiers[at].release(&key, ticket).await;
        });
    }
}
