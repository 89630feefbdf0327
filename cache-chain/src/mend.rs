//! Makes up for writes that a tier missed, also where nobody reads there: other processes may.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{chain::Inner, panics::caught};

/// How long between attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether somebody is at it.
#[derive(Debug, Default)]
pub(crate) struct Mending(AtomicBool);

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    /// Sees to it that what the tiers may hold wrongly is deleted there, in the background. The task ends when that is done,
    /// or with the chain.
    pub(crate) fn mend(self: &Arc<Self>) {
        if self.tiers.iter().any(|tier| tier.journal.has_work()) && !self.mending.0.swap(true, Ordering::AcqRel) {
            self.ground.spawn(mending(AtIt(Arc::downgrade(self))));
        }
    }
}

/// Says that somebody is at it, for as long as its task lives: the runtime of the task may end before it is done.
struct AtIt<V: Clone + Send + Sync + 'static>(Weak<Inner<V>>);

impl<V: Clone + Send + Sync + 'static> Drop for AtIt<V> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.mending.0.store(false, Ordering::Release);
        }
    }
}

async fn mending<V: Clone + Send + Sync + 'static>(at_it: AtIt<V>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(inner) = at_it.0.upgrade() else { return };
        for tier in inner.tiers.iter().filter(|tier| tier.journal.has_work()) {
            // It is counted where it is made, and tried again, also if the store panics.
            let _ = caught(tier.mend()).await;
        }
        if inner.tiers.iter().all(|tier| !tier.journal.has_work()) {
            drop(at_it);
            // What was noted in between found this one still at it.
            return inner.mend();
        }
    }
}
