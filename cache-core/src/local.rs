//! Stores that answer without waiting.

use std::{any::Any, fmt, sync::Arc};

use smallvec::SmallVec;

use crate::{Entry, Fence, Key, Profile, Result, Store, Ticket, Write};

/// What a store in memory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Usage {
    /// The number of entries, including expired ones that have not been removed yet.
    pub entries: u64,
    /// Their total weight, in the unit of the capacity.
    pub weight: u64,
    /// The number of entries that were removed to make room for others; `None` if the store does
    /// not count them.
    pub evictions: Option<u64>,
}

impl Usage {
    /// The usage by so many entries of this total weight.
    pub const fn new(entries: u64, weight: u64) -> Self {
        Self { entries, weight, evictions: None }
    }

    /// Sets the number of evictions.
    pub const fn evictions(mut self, evictions: u64) -> Self {
        self.evictions = Some(evictions);
        self
    }
}

/// A store in this process that answers at once, such as a map in memory.
///
/// Every `LocalStore` is a [`Store`]. It needs no leases of its own, because its
/// [`fence`](Self::fence) guards `fill` and `set`. A chain reads a local first tier without creating
/// a future.
///
/// This trait is for authors of backends; applications use [`Cache`](crate::Cache).
///
/// - `get` returns no expired entry, and compares the whole key.
/// - When `insert` returns, the new entry is visible or the key is absent. The old value is not
///   visible.
/// - `insert` and `remove` run under the lock of the fence. They must not block, and must not drop
///   or clone a value of the application. They return the entries that they displace as
///   [`Displaced`], which is dropped after the lock.
pub trait LocalStore: Send + Sync + 'static {
    /// The type of the values.
    type Value: Clone + Send + Sync + 'static;

    /// Returns the kind of the store and its guarantees.
    fn profile(&self) -> Profile;

    /// Returns the fence that guards this store. Clones of a store share one fence.
    fn fence(&self) -> &Fence;

    /// Returns the entry of `key`, `None` if there is none or it has expired.
    fn get(&self, key: &Key) -> Option<Entry<Self::Value>>;

    /// Returns `true` if the store may hold an entry of `key`. It must hold none if the answer is
    /// `false`. A chain asks this for each key that another process has changed, so it should be
    /// cheap and should not count as a read.
    fn holds(&self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    /// Returns what the store holds now, for statistics. `None` if it does not know.
    fn usage(&self) -> Option<Usage> {
        None
    }

    /// Returns the weight of the entry, in the unit in which the store counts. Called before the
    /// lock is taken.
    fn weigh(&self, key: &Key, entry: &Entry<Self::Value>) -> u64 {
        let _ = (key, entry);
        1
    }

    /// Stores the entry of this weight. If the store has no room for it, leaves the key absent,
    /// which is not an error.
    ///
    /// # Errors
    ///
    /// Fails only if the store itself is broken.
    fn insert(&self, key: &Key, entry: Entry<Self::Value>, weight: u64) -> Result<Displaced>;

    /// Removes the entry of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// Fails only if the store itself is broken.
    fn remove(&self, key: &Key) -> Result<Displaced>;

    /// Removes every entry. May block the thread meanwhile.
    ///
    /// # Errors
    ///
    /// Fails only if the store itself is broken.
    fn clear(&self) -> Result<()>;

    /// Waits until the writes that are buffered now have been applied. May block the thread
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// Fails only if the store itself is broken.
    fn wait(&self) -> Result<()>;
}

/// The rows that an insertion or a removal has displaced from a [`LocalStore`]. They are dropped
/// when no lock is held, because the `Drop` of a value is code of the application.
#[derive(Default)]
#[must_use = "drop it after the lock"]
pub struct Displaced(SmallVec<[Row; 2]>);

type Row = Arc<dyn Any + Send + Sync>;

impl Displaced {
    /// Returns no rows: none was displaced, or the store drops them elsewhere.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Collects rows: the old one, the new one if it was refused, and those that were evicted. More
    /// than two are kept on the heap.
    pub fn rows<T: Any + Send + Sync>(rows: impl IntoIterator<Item = Arc<T>>) -> Self {
        rows.into_iter().map(|row| row as Row).collect()
    }
}

/// Collects rows of several types.
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

/// Every local store is a store. `clear` and `wait` block the thread if those of the local store
/// do.
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
            // The entry is cloned outside of the lock. If nothing was written since the lease, and
            // no write was in progress then, it is the entry that is removed.
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

    /// Sets keys that share a stripe together; otherwise the first would void the tickets of the
    /// others.
    async fn set_many(&self, writes: Vec<Write<S::Value>>) -> Vec<Result<()>> {
        let mut results: Vec<Result<()>> = writes.iter().map(|_| Ok(())).collect();
        // Entries are weighed before the lock.
        let weights: Vec<u64> = writes.iter().map(|write| self.weigh(&write.key, &write.entry)).collect();
        let mut by_stripe: Vec<(usize, usize)> =
            writes.iter().enumerate().map(|(at, write)| (self.fence().stripe_of(&write.key), at)).collect();
        by_stripe.sort_unstable();
        let mut writes: Vec<_> = writes.into_iter().map(|write| (write.key, write.ticket, Some(write.entry))).collect();
        // Displaced and refused entries are dropped after the lock.
        let mut displaced = Vec::new();
        for group in by_stripe.chunk_by(|(one, _), (other, _)| one == other) {
            displaced.reserve(group.len());
            self.fence().set_together(group[0].0, |is_current| {
                for (_, at) in group {
                    let (key, ticket, entry) = &mut writes[*at];
                    displaced.push(match entry.take_if(|_| is_current(*ticket)) {
                        Some(entry) => self.insert(key, entry, weights[*at]),
                        None => self.remove(key),
                    });
                }
            });
            for ((_, at), displaced) in group.iter().zip(displaced.drain(..)) {
                results[*at] = displaced.map(drop);
            }
        }
        results
    }

    fn local(&self) -> Option<&dyn LocalStore<Value = S::Value>> {
        Some(self)
    }
}
