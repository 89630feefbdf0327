use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{Displaced, Entry, Fence, Key, LocalStore, Profile, Result, SharedClock, SystemClock, Usage};

/// The reference store: a map behind a lock. It keeps every clause of the contract and evicts
/// nothing.
///
/// It is for tests: it grows without bound.
#[derive(Clone)]
pub struct MapStore<V> {
    inner: Arc<Inner<V>>,
}

struct Inner<V> {
    rows: Mutex<HashMap<Key, Arc<Entry<V>>>>,
    fence: Fence,
    clock: SharedClock,
}

impl<V: Clone + Send + Sync + 'static> MapStore<V> {
    /// Creates an empty store on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock::shared())
    }

    /// Creates an empty store on this clock.
    pub fn with_clock(clock: SharedClock) -> Self {
        Self { inner: Arc::new(Inner { rows: Mutex::default(), fence: Fence::with_stripes(64), clock }) }
    }

    /// Returns the number of entries, with expired ones.
    pub fn len(&self) -> usize {
        self.rows().len()
    }

    /// Returns `true` if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<Key, Arc<Entry<V>>>> {
        self.inner.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone + Send + Sync + 'static> Default for MapStore<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Clone + Send + Sync + 'static> LocalStore for MapStore<V> {
    type Value = V;

    fn profile(&self) -> Profile {
        Profile::new("map").retains(true).ttl_resolution(Duration::from_nanos(1))
    }

    fn fence(&self) -> &Fence {
        &self.inner.fence
    }

    fn get(&self, key: &Key) -> Option<Entry<V>> {
        let row = self.rows().get(key).cloned()?;
        (!row.is_expired(self.inner.clock.now())).then(|| Entry::clone(&row))
    }

    fn usage(&self) -> Option<Usage> {
        let entries = self.rows().len() as u64;
        Some(Usage::new(entries, entries))
    }

    fn holds(&self, key: &Key) -> bool {
        self.rows().contains_key(key)
    }

    fn insert(&self, key: &Key, entry: Entry<V>, _weight: u64) -> Result<Displaced> {
        Ok(Displaced::rows(self.rows().insert(key.clone(), Arc::new(entry))))
    }

    fn remove(&self, key: &Key) -> Result<Displaced> {
        Ok(Displaced::rows(self.rows().remove(key)))
    }

    fn clear(&self) -> Result<()> {
        let rows = std::mem::take(&mut *self.rows());
        drop(rows);
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

impl<V> fmt::Debug for MapStore<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapStore").finish_non_exhaustive()
    }
}
