//! How a tier is written, and what its journal notes of that.

use cache_core::{Key, MAX_TTL, Result, Write};

use crate::{
    journal::{Journal, Mark},
    tier::Tier,
};

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// Of a key that the tier may hold wrongly, nothing is filled: it is to be deleted first.
    pub(crate) async fn fill_many(&self, mut writes: Vec<Write<V>>) -> Vec<Result<bool>> {
        let places: Vec<bool> = writes.iter().map(|write| self.distrusted(&write.key, &Ok(())).is_none()).collect();
        let mut place = places.iter();
        writes.retain(|_| place.next().copied().unwrap_or(true));
        let filled = self.guarded_many(self.write_timeout, writes.len(), async |_| {
            Ok(match one(writes) {
                Ok(write) => vec![self.store.fill(write).await],
                Err(writes) => self.store.fill_many(writes).await,
            })
        });
        let mut filled = filled.await.into_iter();
        places.into_iter().map(|good| if good { filled.next().unwrap_or(Ok(false)) } else { Ok(false) }).collect()
    }

    pub(crate) async fn set_many(&self, writes: Vec<Write<V>>) -> Vec<Result<()>> {
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let set = async |_| {
            Ok(match one(writes) {
                Ok(write) => vec![self.store.set(write).await],
                Err(writes) => self.store.set_many(writes).await,
            })
        };
        self.written(&keys, set).await
    }

    pub(crate) async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        let del = async |_| {
            Ok(match keys {
                [key] => vec![self.store.del(key).await],
                _ => self.store.del_many(keys).await,
            })
        };
        self.written(keys, del).await
    }

    /// Carries out a write of the keys, and notes in the journal which of them failed.
    async fn written(&self, keys: &[Key], call: impl AsyncFnOnce(bool) -> Result<Vec<Result<()>>>) -> Vec<Result<()>> {
        let writing = self.keeps_journal().then(|| Writing { journal: &self.journal, keys, mark: self.journal.mark() });
        let in_turn = async |is_probe| {
            let _in_flight = if writing.is_some() { Some(self.journal.begin_write(keys).await) } else { None };
            call(is_probe).await
        };
        let results = self.guarded_many(self.write_timeout, keys.len(), in_turn).await;
        if let Some(writing) = writing {
            let of = |good: bool| {
                keys.iter().zip(&results).filter(move |(_, done)| done.is_ok() == good).map(|(key, _)| key)
            };
            self.journal.note(of(false));
            self.journal.acknowledge(writing.mark, of(true));
            writing.ended();
        }
        results
    }

    /// A `clear` takes as many round trips as there are keys to remove, each bounded by the store itself.
    pub(crate) async fn clear(&self) -> Result<()> {
        let mark = self.journal.mark();
        let clear = || self.unblocked(|store| Box::pin(async move { store.clear().await }));
        let cleared = self.guarded(MAX_TTL, async |_| clear().await).await;
        match &cleared {
            Err(_) if self.keeps_journal() => self.journal.note_all(),
            Err(_) => {}
            Ok(()) => self.journal.acknowledge_all(mark),
        }
        cleared
    }
}

/// A write that has begun. Dropped before its end, as when the store panics, it has failed for all its keys.
struct Writing<'a> {
    journal: &'a Journal,
    keys: &'a [Key],
    mark: Mark,
}

impl Writing<'_> {
    fn ended(mut self) {
        self.keys = &[];
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.keys.is_empty() {
            self.journal.note(self.keys);
        }
    }
}

/// The only one of several, if it is: a store's single call is cheaper than a batch of one.
fn one<T>(mut several: Vec<T>) -> Result<T, Vec<T>> {
    if several.len() == 1 { several.pop().ok_or(several) } else { Err(several) }
}
