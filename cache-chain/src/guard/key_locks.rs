//! A lock per key, kept only while it is in use.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cache_core::Key;
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// A lock per key. A key that is neither locked nor waited for takes no memory.
#[derive(Debug, Default)]
pub(super) struct KeyLocks(Mutex<HashMap<Key, Lock>>);

/// A locked key. Dropping it, also by a panic or by a dropped future, unlocks the key.
///
/// The guard is dropped before the place, which counts the uses that are left.
pub(super) struct KeyLock<'a>(#[allow(dead_code, reason = "held until it is dropped")] OwnedMutexGuard<()>, Place<'a>);

/// A use of a key's lock: it holds the lock or waits for it.
struct Place<'a> {
    locks: &'a KeyLocks,
    key: Key,
    lock: Lock,
}

impl KeyLocks {
    fn active(&self) -> MutexGuard<'_, HashMap<Key, Lock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, key: &Key) -> Place<'_> {
        let lock = Arc::clone(self.active().entry(key.clone()).or_default());
        Place { locks: self, key: key.clone(), lock }
    }

    /// Locks one key, after those who asked for it before.
    pub(super) async fn lock(&self, key: &Key) -> KeyLock<'_> {
        let place = self.place(key);
        let locked = Arc::clone(&place.lock).lock_owned().await;
        KeyLock(locked, place)
    }

    /// Locks several keys. Holds none of them while it waits for one: a write of another key never depends on that wait.
    pub(super) async fn lock_all(&self, keys: &[Key]) -> Vec<KeyLock<'_>> {
        let keys: HashSet<&Key> = keys.iter().collect();
        let mut awaited: Option<KeyLock<'_>> = None;
        loop {
            let mut held: Vec<KeyLock<'_>> = awaited.take().into_iter().collect();
            let mut busy = None;
            for &key in &keys {
                if held.first().is_some_and(|first| first.1.key == *key) {
                    continue;
                }
                let place = self.place(key);
                let Ok(locked) = Arc::clone(&place.lock).try_lock_owned() else {
                    busy = Some(key);
                    break;
                };
                held.push(KeyLock(locked, place));
            }
            let Some(key) = busy else { return held };
            drop(held);
            awaited = Some(self.lock(key).await);
        }
    }

    /// Returns when everything that holds a lock now, or waits for one, has ended.
    pub(super) async fn idle(&self) {
        let keys: Vec<Key> = self.active().keys().cloned().collect();
        for key in keys {
            drop(self.lock(&key).await);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.active().len()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut active = self.locks.active();
        // The map and this use hold it: there is no other use. A new one is made under the map's lock alone.
        if Arc::strong_count(&self.lock) == 2 {
            active.remove(&self.key);
        }
    }
}
