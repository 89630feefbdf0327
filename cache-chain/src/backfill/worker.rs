//! The task that applies backfills.

use std::sync::Arc;

use cache_core::{SharedClock, Write};
use tokio::sync::watch;

use super::{
    Backfill,
    queue::{Batch, Queue},
};
use crate::{stats::BackfillCounters, tier::Tier, util::panics::caught};

/// Drains the queue until it is closed. Reports the position that it has reached through `applied`.
pub(super) async fn drain<V: Clone + Send + Sync + 'static>(
    queue: Arc<Queue<V>>,
    tiers: Arc<[Tier<V>]>,
    clock: SharedClock,
    applied: watch::Sender<u64>,
) {
    while let Some(Batch { backfills, end, held }) = queue.next().await {
        let count = backfills.len();
        // A panic of a store or a value must not end all backfilling.
        if caught(apply(backfills, &tiers, &clock, queue.counters())).await.is_none() {
            queue.counters().failed.add(count);
        }
        queue.release(held);
        applied.send_replace(end);
        // Local tiers never wait; other tasks of this thread must run, too.
        tokio::task::yield_now().await;
    }
}

/// Fills the entries into the tiers, the first tier first: it is the fastest and serves most reads.
pub(super) async fn apply<V: Clone + Send + Sync + 'static>(
    mut backfills: Vec<Backfill<V>>,
    tiers: &[Tier<V>],
    clock: &SharedClock,
    counters: &BackfillCounters,
) {
    // Dropped when the entries have been stored: until then, no notice of a change may be skipped.
    let held: Vec<_> = backfills.iter_mut().map(|backfill| (backfill.held.take(), backfill.draw.take())).collect();
    let mut backfills: Vec<_> = backfills.into_iter().map(Some).collect();
    for (at, tier) in tiers.iter().enumerate() {
        let now = clock.now();
        let mut writes = Vec::new();
        for slot in &mut backfills {
            let Some(backfill) = slot else { continue };
            if backfill.entry.is_expired(now) {
                counters.expired.increment();
                *slot = None;
                continue;
            }
            let Some((_, ticket)) = backfill.tickets.iter().copied().find(|(place, _)| *place == at) else { continue };
            // No tier keeps an entry longer than the tiers below that have it.
            let below = &tiers[at..backfill.found_in];
            let expiry = below.iter().rev().fold(backfill.entry.expiry(), |expiry, tier| tier.limit(expiry, now));
            // The last tier takes the entry itself, so that no more is held than the queue counts.
            let is_last = backfill.tickets.iter().all(|(place, _)| *place <= at);
            let (key, entry) = match slot.take_if(|_| is_last) {
                Some(backfill) => (backfill.key, backfill.entry),
                None => match slot {
                    Some(backfill) => (backfill.key.clone(), backfill.entry.clone()),
                    None => continue,
                },
            };
            writes.push(Write::new(key, entry.expiring_by(expiry), ticket));
        }
        for filled in tier.fill(writes).await {
            match filled {
                Ok(true) => counters.applied.increment(),
                Ok(false) => counters.refused.increment(),
                Err(error) => {
                    counters.failed.increment();
                    tier.report_failed_fill(&error);
                }
            }
        }
    }
    drop(held);
}
