//! Makes up for writes that a tier missed, also where nobody reads there: other processes may.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_core::{Error, ErrorKind, Key, Result};

use crate::{chain::Inner, panics::caught, tier::Tier};

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

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// Deletes what the tier may hold wrongly, if it is time to and nobody else is at it. Returns whether the store was asked.
    pub(crate) async fn repair(&self, is_probe: bool) -> Result<bool> {
        if self.journal.is_clean() {
            return Ok(false);
        }
        let Some(task) = self.journal.take_on(is_probe) else { return Ok(false) };
        let mut was_asked = false;
        for some in task.keys.chunks(256) {
            let deletion = task.begin_deletion(some);
            if deletion.keys.is_empty() {
                continue;
            }
            was_asked = true;
            self.store.del_many(&deletion.keys).await.into_iter().collect::<Result<()>>()?;
            // One after the other, so that what is done is done if the time is up.
            task.deleted(&deletion.keys);
        }
        task.done(self.clock.now());
        Ok(was_asked)
    }

    /// An attempt to repair that no read waits for. The breaker learns nothing of one that has not asked the store.
    pub(crate) async fn mend(&self) -> Result<()> {
        let repair = async |_| self.repair(true).await;
        self.passed(self.write_timeout, 1, repair, |was_asked| was_asked.then_some(Ok(()))).await.map(drop)
    }

    /// Why this key must not be read here, if so, after an attempt to repair that ended like this.
    pub(crate) fn distrusted(&self, key: &Key, repaired: &Result<()>) -> Option<Error> {
        if self.journal.is_clean() || !self.journal.distrusts(key) {
            return None;
        }
        Some(repaired.as_ref().err().cloned().unwrap_or_else(|| {
            let message = format!(
                "tier {} may hold an old value of this key since a write failed, and it is not deleted there yet",
                self.title()
            );
            Error::new(ErrorKind::Unavailable, message)
        }))
    }
}
