//! Writes that go on without their callers.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use cache_core::Key;
use tokio::sync::watch;

/// The writes that go on without their callers, by number and by key.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    next: u64,
    all: BTreeSet<u64>,
    /// Those that write everything.
    of_all_keys: BTreeSet<u64>,
    by_key: HashMap<Key, BTreeSet<u64>>,
}

impl Orphans {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those that a write of these keys (`None`: of all) is to wait for.
    pub(crate) fn before(&self, keys: Option<&[Key]>) -> Vec<u64> {
        if self.is_empty() {
            return Vec::new();
        }
        let Some(keys) = keys else { return self.all.iter().copied().collect() };
        let of_key = keys.iter().filter_map(|key| self.by_key.get(key)).flatten();
        of_key.chain(&self.of_all_keys).copied().collect()
    }

    pub(crate) fn has_any_of(&self, numbers: &[u64]) -> bool {
        numbers.iter().any(|number| self.all.contains(number))
    }

    fn enter(&mut self, keys: Option<&[Key]>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.all.insert(number);
        match keys {
            None => _ = self.of_all_keys.insert(number),
            Some(keys) => keys.iter().for_each(|key| _ = self.by_key.entry(key.clone()).or_default().insert(number)),
        }
        number
    }

    fn leave(&mut self, number: u64, keys: Option<&[Key]>) {
        self.all.remove(&number);
        self.of_all_keys.remove(&number);
        for key in keys.unwrap_or_default() {
            if let Some(numbers) = self.by_key.get_mut(key) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
    }
}

/// One of them, for as long as it goes on, also if its task is thrown away.
pub(crate) struct Orphan {
    orphans: Arc<watch::Sender<Orphans>>,
    number: u64,
    keys: Option<Arc<[Key]>>,
}

impl Orphan {
    pub(crate) fn new(orphans: &Arc<watch::Sender<Orphans>>, keys: Option<Arc<[Key]>>) -> Self {
        let mut number = 0;
        orphans.send_modify(|orphans| number = orphans.enter(keys.as_deref()));
        Self { orphans: Arc::clone(orphans), number, keys }
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.orphans.send_modify(|orphans| orphans.leave(self.number, self.keys.as_deref()));
    }
}
