//! Background repair: deletes what failed writes have left in the tiers, also where no call reads
//! it. Other processes may.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    tier::Tier,
    util::{panics::caught, runtime::RuntimeHandle},
};

/// The time between two attempts.
const INTERVAL: Duration = Duration::from_secs(1);

/// Repairs the tiers of a chain.
pub(crate) struct Repairer<V> {
    tiers: Arc<[Tier<V>]>,
    runtime: RuntimeHandle,
    is_running: AtomicBool,
}

impl<V: Clone + Send + Sync + 'static> Repairer<V> {
    pub(crate) fn new(tiers: Arc<[Tier<V>]>, runtime: RuntimeHandle) -> Arc<Self> {
        Arc::new(Self { tiers, runtime, is_running: AtomicBool::new(false) })
    }

    /// Starts a task that repairs the tiers, if there is anything to repair and no task does. The
    /// task ends when all tiers are repaired, or with the chain.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.tiers.iter().any(Tier::needs_repair) && !self.is_running.swap(true, Ordering::AcqRel) {
            self.runtime.spawn(run(Running(Arc::downgrade(self))));
        }
    }
}

/// Marks the repairer as running. The runtime may drop the task before its end.
struct Running<V>(Weak<Repairer<V>>);

impl<V> Drop for Running<V> {
    fn drop(&mut self) {
        if let Some(repairer) = self.0.upgrade() {
            repairer.is_running.store(false, Ordering::Release);
        }
    }
}

async fn run<V: Clone + Send + Sync + 'static>(running: Running<V>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(repairer) = running.0.upgrade() else { return };
        for tier in repairer.tiers.iter().filter(|tier| tier.needs_repair()) {
            // A failure is counted by the tier, and retried. So is a panic of the store.
            if let Some(Err(error)) = caught(tier.repair_now()).await {
                tier.report_failed_repair(&error);
            }
        }
        if !repairer.tiers.iter().any(Tier::needs_repair) {
            drop(running);
            // A write may have failed since, when this task was still marked as running.
            return repairer.start();
        }
    }
}
