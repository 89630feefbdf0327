//! Reads that fill no tier: of an entry again before it is served stale, and of whether a key has a
//! value.

use std::{pin::pin, sync::Arc};

use cache_core::{Entry, Key, Result};

use super::Reader;
use crate::util::deadline::Deadline;

impl<V: Clone + Send + Sync + 'static> Reader<V> {
    /// Returns `true` if [`read_again`](Self::read_again) needs no time for this tier.
    pub(crate) fn is_read_at_once(&self, key: &Key, place: usize) -> bool {
        self.tiers[place].peek_unsampled(key).is_some()
    }

    /// Returns the entry that the tier of this place has of the key now, unless it has no value, and
    /// the place. Returns `None` also if the tier fails. An entry that is suspect by now is read
    /// from the shared tier instead; if that fails, it may be in grace.
    pub(crate) async fn read_again(self: &Arc<Self>, key: &Key, place: usize) -> Option<(usize, Entry<V>)> {
        let found = match (self.tiers[place].local(), self.tiers[place].peek(key)) {
            (Some(_), Some(entry)) => Some((place, entry)),
            (Some(local), None) => {
                let (first, held) = (self.first()?, local.get(key)?);
                match self.recheck(key, first.shared).await? {
                    Ok(entry) => entry.map(|entry| (first.shared, entry)),
                    Err(_) => first.is_in_grace(key, &held).then_some((place, held)),
                }
            }
            (None, _) => self.recheck(key, place).await?.ok()?.map(|entry| (place, entry)),
        };
        found.filter(|(_, entry)| !entry.is_absent() && !self.has_expired(entry))
    }

    /// Returns what the tier of this place answers, `None` if the runtime has ended.
    async fn recheck(self: &Arc<Self>, key: &Key, place: usize) -> Option<Result<Option<Entry<V>>>> {
        let (reader, key) = (Arc::clone(self), key.clone());
        self.runtime.run(async move { reader.tiers[place].recheck(&key).await }).await.ok()
    }

    /// Returns whether any tier has a fresh value of the key. Fills no tier.
    pub(crate) async fn contains(self: &Arc<Self>, key: Key) -> Result<bool> {
        // A hit in memory needs no task.
        if let Some(entry) = self.peek(&key).filter(|entry| self.tiers[0].is_fresh(entry)) {
            return Ok(!entry.is_absent());
        }
        let (reader, span) = (Arc::clone(self), self.spans.lookup(std::slice::from_ref(&key)));
        let look = async move {
            let mut failure = None;
            for tier in &*reader.tiers {
                match tier.recheck(&key).await {
                    // The entry says whether there is a value.
                    Ok(Some(entry)) if tier.is_fresh(&entry) && !reader.has_expired(&entry) => {
                        return Ok(!entry.is_absent());
                    }
                    Ok(_) => {}
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            failure.map_or(Ok(false), Err)
        };
        let contains = async move {
            let found = span.enclose(pin!(look)).await;
            let outcome = if matches!(found, Ok(true)) { "hit" } else { "miss" };
            span.outcome(found.as_ref(), outcome);
            found
        };
        Deadline::after(self.timeout).bound(&self.runtime, pin!(async { self.runtime.run(contains).await? })).await
    }
}
