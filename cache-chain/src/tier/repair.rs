//! Repairs of a tier: deletes the keys that a failed write has left there.

use cache_core::{Error, ErrorKind, Key, Result};

use super::{Tier, operation::Operation};

/// The number of keys that one call of the store deletes.
const BATCH: usize = 256;

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// Returns `true` if there is anything to repair.
    pub(crate) fn needs_repair(&self) -> bool {
        self.pending.has_work()
    }

    /// Returns `true` if a failed write is repaired. A local tier has no failed writes, and an
    /// origin keeps its values.
    pub(crate) fn is_repairable(&self) -> bool {
        !self.is_local() && !self.is_origin
    }

    /// Removes the entry of a key that has changed in a tier below: at once from a local tier, and
    /// in the next repair from another one. It is not read before.
    pub(crate) fn invalidate(&self, key: &Key) {
        match self.local() {
            // A store in memory that fails to remove a row is broken.
            Some(local) => drop(local.fence().void(key, || local.remove(key))),
            None if self.is_repairable() => self.pending.add([key]),
            None => {}
        }
    }

    /// As [`invalidate`](Self::invalidate), for all keys.
    pub(crate) fn invalidate_all(&self) {
        match self.local() {
            Some(local) => {
                local.fence().void_all();
                drop(local.clear());
            }
            None if self.is_repairable() => self.pending.add_all(),
            None => {}
        }
    }

    /// Repairs the tier in a call of its own.
    pub(crate) async fn repair_now(&self) -> Result<()> {
        // The breaker learns nothing if the store was not asked.
        let repair = async |_| self.repair(true).await.map(|was_asked| ((), was_asked.then_some(Ok(()))));
        self.call_with_verdict(Operation::Repair, self.write_timeout, 1, repair).await
    }

    /// Deletes the pending keys, if it is time to and no other caller does. Returns `true` if the
    /// store was asked.
    pub(super) async fn repair(&self, is_probe: bool) -> Result<bool> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        let Some(deletions) = self.pending.start(is_probe) else { return Ok(false) };
        let mut was_asked = false;
        for batch in deletions.keys.chunks(BATCH) {
            let deletion = deletions.begin_deletion(batch);
            if deletion.keys.is_empty() {
                continue;
            }
            was_asked = true;
            self.store.del_many(&deletion.keys).await.into_iter().collect::<Result<()>>()?;
            // Batch by batch, so that the progress is kept if the time runs out.
            deletions.deleted(&deletion.keys);
        }
        deletions.done(self.clock.now());
        Ok(was_asked)
    }

    /// Returns the error of a read of this key if it must not be read, after an attempt to repair
    /// that ended like this.
    pub(super) fn withheld(&self, key: &Key, repaired: &Result<()>) -> Option<Error> {
        if self.pending.is_empty() || !self.pending.awaits_delete(key) {
            return None;
        }
        Some(repaired.as_ref().err().cloned().unwrap_or_else(|| {
            let message = format!(
                "tier {} may hold an old value of the key after a failed write; it is read again when the key has been deleted \
                 there, which is retried",
                self.title()
            );
            Error::new(ErrorKind::Unavailable, message)
        }))
    }
}
