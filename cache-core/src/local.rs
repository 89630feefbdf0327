//! Stores that answer without waiting.

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

use smallvec::SmallVec;

use crate::{Entry, Fence, Key, Profile, Result, Store, Ticket, Write};

/// A store in this process that answers at once, such as a map in memory.
///
/// It needs no leases of its own: core implements [`Store`] for every `LocalStore`, with its
/// [`fence`](Self::fence) guarding `fill` and `set`. A chain reads a local first tier without
/// building a future.
///
/// This trait is for authors of backends; applications use [`Cache`](crate::Cache).
///
/// - `get` gives an expired entry never, and compares the whole key.
/// - `insert` makes the entry visible before it returns, or leaves the key *absent*: never the old
///   value.
/// - `insert` and `remove` run under the fence's lock. They must not wait for anybody, nor drop or
///   clone a value of the application there: what they push out they return as [`Displaced`], and
///   it is dropped after the lock.
pub trait LocalStore: Send + Sync + 'static {
    /// The type of the values.
    type Value: Clone + Send + Sync + 'static;

    /// The kind of the store and its promises.
    fn profile(&self) -> Profile;

    /// The fence that guards this store; one per store, shared by its clones.
    fn fence(&self) -> &Fence;

    /// The entry of `key`, unless it has expired.
    fn get(&self, key: &Key) -> Option<Entry<Self::Value>>;

    /// How much room the entry takes, in whatever unit the store counts; it is called before the
    /// lock is taken.
    fn weigh(&self, key: &Key, entry: &Entry<Self::Value>) -> u64 {
        let _ = (key, entry);
        1
    }

    /// Stores the entry of this weight, or leaves the key absent if the store has no place for it
    /// (which is not an error).
    ///
    /// # Errors
    ///
    /// Only if the store itself is broken.
    fn insert(&self, key: &Key, entry: Entry<Self::Value>, weight: u64) -> Result<Displaced>;

    /// Removes the entry of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// Only if the store itself is broken.
    fn remove(&self, key: &Key) -> Result<Displaced>;

    /// Removes every entry. It may block the thread for as long as that takes.
    ///
    /// # Errors
    ///
    /// Only if the store itself is broken.
    fn clear(&self) -> Result<()>;

    /// Returns when what was buffered before has been applied. It may block the thread for as long
    /// as that takes.
    ///
    /// # Errors
    ///
    /// Only if the store itself is broken.
    fn wait(&self) -> Result<()>;
}

/// The rows that an insertion or a removal has displaced from a [`LocalStore`]. They are dropped
/// when no lock is held.
#[derive(Default)]
#[must_use = "drop it after the lock"]
pub struct Displaced(SmallVec<[Row; 2]>);

type Row = Arc<dyn Any + Send + Sync>;

impl Displaced {
    /// Nothing was pushed out, or the store drops it elsewhere.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// These rows: the old one if there was one, the new one if it was refused, and those that had
    /// to make room. More than two are kept on the heap.
    pub fn rows<T: Any + Send + Sync>(rows: impl IntoIterator<Item = Arc<T>>) -> Self {
        rows.into_iter().map(|row| row as Row).collect()
    }
}

/// Rows of several types.
impl FromIterator<Row> for Displaced {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        Self(rows.into_iter().collect())
    }
}

impl fmt::Debug for Displaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Displaced").field("rows", &self.0.len()).finish()
    }
}

/// Every local store is a store. `clear` and `wait` block the thread as the local ones do.
impl<S: LocalStore> Store for S {
    type Value = S::Value;

    fn profile(&self) -> Profile {
        LocalStore::profile(self)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        Ok(LocalStore::get(self, key))
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        Ok(self.fence().lease(key))
    }

    async fn fill(&self, write: Write<S::Value>) -> Result<bool> {
        let Write { key, entry, ticket } = write;
        let weight = self.weigh(&key, &entry);
        let filled = self.fence().fill(&key, ticket, || self.insert(&key, entry, weight));
        filled.transpose().map(|displaced| displaced.is_some())
    }

    async fn set(&self, write: Write<S::Value>) -> Result<()> {
        let Write { key, entry, ticket } = write;
        let weight = self.weigh(&key, &entry);
        let displaced = self.fence().set(&key, ticket, || self.insert(&key, entry, weight), || self.remove(&key));
        displaced.map(drop)
    }

    async fn del(&self, key: &Key) -> Result<()> {
        self.fence().void(key, || self.remove(key)).map(drop)
    }

    async fn take(&self, key: &Key) -> Result<Option<Entry<S::Value>>> {
        loop {
            // The entry is cloned outside of the lock. It is the one that is removed if nothing was
            // written since the lease, and no write was in progress then.
            let ticket = self.fence().lease_between_writes(key);
            let entry = LocalStore::get(self, key);
            if let Some(displaced) = self.fence().void_if_current(key, ticket, || self.remove(key)) {
                return displaced.map(|_| entry);
            }
        }
    }

    async fn clear(&self) -> Result<()> {
        self.fence().void_all();
        LocalStore::clear(self)
    }

    async fn wait(&self) -> Result<()> {
        LocalStore::wait(self)
    }

    /// Keys that share a stripe are set together, or the first would void the others' tickets.
    async fn set_many(&self, writes: Vec<Write<S::Value>>) -> Vec<Result<()>> {
        let mut results: Vec<Result<()>> = writes.iter().map(|_| Ok(())).collect();
        let mut by_stripe = BTreeMap::<usize, Vec<usize>>::new();
        for (at, write) in writes.iter().enumerate() {
            by_stripe.entry(self.fence().stripe_of(&write.key)).or_default().push(at);
        }
        // Weighed before the lock, and what is not installed is dropped after it.
        let weights: Vec<u64> = writes.iter().map(|write| self.weigh(&write.key, &write.entry)).collect();
        let tickets: Vec<Ticket> = writes.iter().map(|write| write.ticket).collect();
        let (keys, mut entries): (Vec<Key>, Vec<_>) =
            writes.into_iter().map(|write| (write.key, Some(write.entry))).unzip();
        for (stripe, places) in by_stripe {
            let drawn: Vec<Ticket> = places.iter().map(|&at| tickets[at]).collect();
            let displaced: Vec<Result<Displaced>> = self.fence().set_together(stripe, &drawn, |good| {
                let each = places.iter().zip(good);
                each.map(|(&at, good)| match entries[at].take_if(|_| *good) {
                    Some(entry) => self.insert(&keys[at], entry, weights[at]),
                    None => self.remove(&keys[at]),
                })
                .collect()
            });
            for (at, displaced) in places.into_iter().zip(displaced) {
                results[at] = displaced.map(drop);
            }
        }
        results
    }

    fn local(&self) -> Option<&dyn LocalStore<Value = S::Value>> {
        Some(self)
    }
}
