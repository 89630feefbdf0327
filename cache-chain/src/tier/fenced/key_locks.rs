//! A lock per key, kept only while it is in use.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};

use cache_core::Key;
use tokio::sync::OwnedMutexGuard;

use crate::util::{fault::injected, key_map::KeyMap, sync::lock};

type Lock = Arc<tokio::sync::Mutex<()>>;

/// A lock per key. A key that is neither locked nor waited for takes no memory.
#[derive(Debug, Default)]
pub(super) struct KeyLocks(Mutex<KeyMap<Lock>>);

/// A locked key. Dropping it unlocks the key, also in a panic or with a dropped future.
///
/// The guard is dropped before the place, which counts the remaining uses.
pub(super) struct KeyLock<'a>(#[allow(dead_code, reason = "held until it is dropped")] OwnedMutexGuard<()>, Place<'a>);

/// A use of a key's lock: it holds the lock or waits for it.
struct Place<'a> {
    locks: &'a KeyLocks,
    key: Key,
    lock: Lock,
}

impl KeyLocks {
    fn active(&self) -> MutexGuard<'_, KeyMap<Lock>> {
        lock(&self.0)
    }

    fn place(&self, key: &Key) -> Place<'_> {
        let mut lock = Arc::clone(self.active().entry(key.clone()).or_default());
        if injected!(UnsharedLocks) {
            lock = Lock::default();
        }
        Place { locks: self, key: key.clone(), lock }
    }

    /// Locks one key, in the order of the calls.
    pub(super) async fn lock(&self, key: &Key) -> KeyLock<'_> {
        let place = self.place(key);
        let locked = Arc::clone(&place.lock).lock_owned().await;
        KeyLock(locked, place)
    }

    /// Locks several keys. Holds none of them while it waits for another, so that writes of the
    /// other keys do not wait.
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

    /// Waits for all current holders of locks, and for the calls that wait for one now.
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
        // Only the map and this use hold it. A new use is made under the lock of the map.
        if Arc::strong_count(&self.lock) == 2 {
            active.remove(&self.key);
        }
    }
}
