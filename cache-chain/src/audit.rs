//! The auditor: compares a sample of the hits with the shared tier, so that operators can state how
//! coherent their first tiers are.

use std::sync::Arc;

use tokio::{sync::mpsc, time::sleep_until};

use crate::{
    coherence::{FirstTiers, Sample},
    tier::Tier,
    util::{deadline::after, panics::caught},
};

/// Audits samples until the chain ends.
pub(crate) async fn run<V: Clone + Send + Sync + 'static>(
    tiers: Arc<[Tier<V>]>,
    first: Arc<FirstTiers>,
    mut samples: mpsc::Receiver<Sample>,
) {
    while let Some(sample) = samples.recv().await {
        sleep_until(sample.seen + first.window()).await;
        // A store that panics must not end the audit.
        if let Some(Some(agrees)) = caught(audit(&tiers, &first, &sample)).await {
            first.counters.audited.increment();
            if !agrees {
                first.counters.disagreed.increment();
                tracing::warn!(
                    memory = %tiers[0].title(),
                    "the auditor has found an entry in memory that the shared tier has replaced longer ago than W"
                );
            }
        }
    }
}

/// Returns whether the first tier agrees with the shared tier, `None` if that cannot be told.
async fn audit<V: Clone + Send + Sync + 'static>(
    tiers: &[Tier<V>],
    first: &FirstTiers,
    sample: &Sample,
) -> Option<bool> {
    let shared = tiers[first.shared].recheck(&sample.key).await.ok()?;
    if shared.is_some_and(|entry| entry.etag() == Some(sample.etag)) {
        return Some(true);
    }
    // It was replaced, maybe just now. No later record has its version again, so the first tier must
    // not serve it W from now.
    sleep_until(after(first.window())).await;
    let is_served = tiers.iter().take(first.shared).any(|tier| {
        let entry = tier.peek_unsampled(&sample.key);
        entry.is_some_and(|entry| entry.etag() == Some(sample.etag))
    });
    Some(!is_served)
}
