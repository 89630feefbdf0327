//! Writes to a tier. A failed write leaves its keys pending for deletion.

use std::time::Duration;

use cache_core::{Entry, ErrorKind, Expiry, Key, Lifetime, LocalStore, MAX_TTL, Moment, Result, Ticket, Write};
use tokio::time::Instant;

use super::{
    Tier,
    call::Each,
    operation::Operation,
    pending_deletes::{Mark, PendingDeletes},
};
use crate::util::deadline::after;

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// Fills entries, and returns for each whether it was installed. Keys that are pending for
    /// deletion are not filled.
    pub(crate) async fn fill(&self, mut writes: Vec<Write<V>>) -> Each<Result<bool>> {
        let is_filled: Each<bool> = writes.iter().map(|write| self.withheld(&write.key, &Ok(())).is_none()).collect();
        let mut kept = is_filled.iter();
        writes.retain(|_| kept.next().copied().unwrap_or(true));
        let fill = async |_| match single(writes) {
            Ok(write) => Each::from_iter([self.store.fill(write).await]),
            Err(writes) => self.store.fill_many(writes).await.into(),
        };
        let count = is_filled.iter().filter(|is_filled| **is_filled).count();
        let mut filled = self.call_for_each(Operation::Fill, self.write_timeout, count, fill).await.into_iter();
        is_filled
            .iter()
            .map(|is_filled| if *is_filled { filled.next().unwrap_or(Ok(false)) } else { Ok(false) })
            .collect()
    }

    /// Sets the entry of a key in the store of this tier, which is local.
    pub(crate) fn set_at_once(&self, local: &dyn LocalStore<Value = V>, key: &Key, entry: Entry<V>) -> Result<()> {
        // An entry is weighed before the lock, and what it displaces is dropped after it.
        let weight = local.weigh(key, &entry);
        let insert = || local.insert(key, entry, weight);
        let displaced = local.fence().set(key, Ticket::unconditional(), insert, || local.remove(key));
        displaced.map(drop).inspect_err(|error| self.count_error(error))
    }

    pub(crate) async fn set(&self, writes: Vec<Write<V>>) -> Each<Result<()>> {
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let set = async |_| match single(writes) {
            Ok(write) => Each::from_iter([self.store.set(write).await]),
            Err(writes) => self.store.set_many(writes).await.into(),
        };
        self.write(Operation::Set, &keys, set).await
    }

    pub(crate) async fn del(&self, keys: &[Key]) -> Each<Result<()>> {
        let del = async |_| match keys {
            [key] => Each::from_iter([self.store.del(key).await]),
            _ => self.store.del_many(keys).await.into(),
        };
        self.write(Operation::Del, keys, del).await
    }

    /// Deletes a key, and returns its entry as far as it may be read.
    pub(crate) async fn take(&self, key: &Key) -> Result<Option<Entry<V>>> {
        self.loads_stored(key).await;
        // An outdated entry is deleted, and not returned.
        let is_withheld = self.withheld(key, &Ok(())).is_some();
        let take = async |_| {
            Each::from_iter([match self.store.take(key).await {
                // The bytes that do not decode have been removed.
                Err(error) if error.kind() == ErrorKind::Codec => Ok(None),
                taken => taken,
            }])
        };
        let taken = self.write(Operation::Take, std::slice::from_ref(key), take).await.pop().unwrap_or(Ok(None))?;
        Ok(taken.filter(|entry| !is_withheld && !self.pending.rejects(entry)))
    }

    /// Makes the entry of a key stale from `now` on, and expire at `until` at the latest. An entry
    /// without a value is deleted.
    pub(crate) async fn expire(&self, key: &Key, now: Moment, until: Expiry) -> Result<()> {
        self.loads_stored(key).await;
        let is_withheld = self.withheld(key, &Ok(())).is_some();
        // The entry keeps its stamp. Evicted meanwhile, it would miss a notice.
        let _pending = self.draw(key);
        let expire = async |_| {
            let turn = self.take_turn(key).await;
            let expired = async {
                let ticket = self.store.lease_within(key, self.write_timeout).await?;
                let entry = match self.store.get(key).await {
                    Ok(entry) => {
                        entry.filter(|entry| !is_withheld && !entry.is_absent() && !self.pending.rejects(entry))
                    }
                    Err(error) if error.kind() == ErrorKind::Codec => None,
                    Err(error) => return Err(error),
                };
                let Some(entry) = entry else { return self.store.del(key).await };
                let lifetime =
                    Lifetime::new(entry.expiry().min(until)).fresh_until(entry.stale_at().min(Expiry::At(now)));
                // As a write, it voids the leases of lookups that have read the fresh entry.
                self.store.set(Write::new(key.clone(), entry.with_lifetime(lifetime), ticket)).await
            };
            let expired = expired.await;
            if let Some((marker, ticket)) = turn {
                // If this fails, the claim expires.
                let _ = self.store.release(&marker, ticket).await;
            }
            Each::from_iter([expired])
        };
        self.write(Operation::Expire, std::slice::from_ref(key), expire).await.pop().unwrap_or(Ok(()))
    }

    /// Claims to be the only one that expires the key, in a tier that grants claims. Otherwise of two
    /// processes that have read the entry the later one would find its lease void, and delete the
    /// key. Returns `None` if the claim is not granted within half of the time of a write; then the
    /// key is expired without it.
    async fn take_turn(&self, key: &Key) -> Option<(Key, Ticket)> {
        if !self.grants_claims() {
            return None;
        }
        let marker = Key::new(&[b"\0expire:", key.as_bytes()].concat()).ok()?;
        let until = after(self.write_timeout / 2);
        let mut pause = PAUSES.0;
        loop {
            let claim = self.store.claim_within(&marker, self.write_timeout).await.ok()?;
            if claim.granted {
                return Some((marker, claim.ticket));
            }
            if Instant::now() + pause > until {
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Gives the entry of a key a new lifetime. Returns `true` if there is one that may be read.
    pub(crate) async fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        self.loads_stored(key).await;
        if self.withheld(key, &Ok(())).is_some() {
            return Ok(false);
        }
        // As in `expire`.
        let _pending = self.draw(key);
        let touch = async |_| {
            // Only its entry tells whether it may be read.
            if !self.pending.is_empty() && self.store.get(key).await?.is_none_or(|entry| self.pending.rejects(&entry)) {
                return Ok(false);
            }
            self.store.touch(key, lifetime, now).await
        };
        self.call(Operation::Touch, self.write_timeout, touch).await
    }

    /// Waits until the loads of the key that have ended are stored here, unless that takes long.
    async fn loads_stored(&self, key: &Key) {
        self.fills.ended(std::slice::from_ref(key), self.write_timeout).await;
    }

    /// Runs a write of the keys. Those that fail are pending for deletion.
    async fn write<T>(
        &self,
        operation: Operation,
        keys: &[Key],
        call: impl AsyncFnOnce(bool) -> Each<Result<T>>,
    ) -> Each<Result<T>> {
        if !self.is_repairable() {
            return self.call_for_each(operation, self.write_timeout, keys.len(), call).await;
        }
        let unfinished = Unfinished { pending: &self.pending, keys, mark: self.pending.mark() };
        let in_turn = async |is_probe| {
            let _in_flight = self.pending.begin_write(keys).await;
            call(is_probe).await
        };
        let results = self.call_for_each(operation, self.write_timeout, keys.len(), in_turn).await;
        let written =
            |ok: bool| keys.iter().zip(&results).filter(move |(_, result)| result.is_ok() == ok).map(|(key, _)| key);
        self.pending.add(written(false));
        self.pending.acknowledge(unfinished.mark, written(true));
        unfinished.finish();
        results
    }

    /// Clears the store. The time is not limited, because it grows with the number of keys; the
    /// store limits each round trip.
    pub(crate) async fn clear(&self) -> Result<()> {
        let mark = self.pending.mark();
        let clear = async |_| self.blocking(|store| Box::pin(async move { store.clear().await })).await;
        let cleared = self.call(Operation::Clear, MAX_TTL, clear).await;
        match &cleared {
            Err(_) if self.is_repairable() => self.pending.add_all(),
            Err(_) => {}
            Ok(()) => self.pending.acknowledge_all(mark),
        }
        cleared
    }
}

/// The shortest and the longest time between two attempts to expire a key that another process
/// expires.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// A write that has begun. Dropped unfinished, as when the store panics, it has failed for all its
/// keys.
struct Unfinished<'a> {
    pending: &'a PendingDeletes,
    keys: &'a [Key],
    mark: Mark,
}

impl Unfinished<'_> {
    fn finish(mut self) {
        self.keys = &[];
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.keys.is_empty() {
            self.pending.add(self.keys);
        }
    }
}

/// The only one of several, if it is: a store's call for one key is cheaper than a batch of one.
fn single<T>(mut several: Vec<T>) -> Result<T, Vec<T>> {
    if several.len() == 1 { several.pop().ok_or(several) } else { Err(several) }
}
