//! The fence of one store, shared by all chains over it.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, Weak},
};

use cache_core::{Fence, Key, Ticket};

use super::key_locks::{KeyLock, KeyLocks};
use crate::util::{fault::injected, sync::lock};

/// A [`Fence`] for a store whose calls take time: the tickets are those of the fence, and a lock
/// per key is held while the store works.
///
/// Keys that share a stripe of the fence void each other's tickets now and then, which costs one
/// more read of the tier below. They never wait for each other: code of the application may run
/// while a key is locked, and may write another key.
#[derive(Debug, Default)]
pub(super) struct SharedFence {
    fence: Fence,
    pub(super) locks: KeyLocks,
}

/// The type of a store and its domain; see [`cache_core::Profile::domain`].
type Identity = (TypeId, u64);

/// All fences in use. Two chains over one store share its fence; otherwise a fill by one would not
/// see a write by the other.
static FENCES: LazyLock<Mutex<HashMap<Identity, Weak<SharedFence>>>> = LazyLock::new(Mutex::default);

impl SharedFence {
    /// Returns the fence of the stores of this type and domain.
    pub(super) fn of<S: 'static>(domain: u64) -> Arc<Self> {
        let mut fences = lock(&FENCES);
        let identity = (TypeId::of::<S>(), domain);
        if let Some(fence) = fences.get(&identity).and_then(Weak::upgrade) {
            return fence;
        }
        // Stores come and go; only those in use are kept.
        fences.retain(|_, fence| fence.strong_count() > 0);
        let fence = Arc::new(Self::default());
        fences.insert(identity, Arc::downgrade(&fence));
        fence
    }

    pub(super) fn lease(&self, key: &Key) -> Ticket {
        self.fence.lease(key)
    }

    /// Returns `true` if a ticket is valid. The caller holds the key's lock, so the ticket stays
    /// valid until the caller voids it or a key of the same stripe is written.
    pub(super) fn is_current(&self, key: &Key, ticket: Ticket) -> bool {
        self.fence.fill(key, ticket, || ()).is_some()
    }

    /// Voids all tickets of the key. The caller holds its lock.
    pub(super) fn void(&self, key: &Key) {
        self.fence.void(key, || ());
    }

    /// Locks the key and voids its tickets.
    pub(super) async fn begin_write(&self, key: &Key) -> KeyLock<'_> {
        let locked = self.locks.lock(key).await;
        self.void(key);
        locked
    }

    /// Voids all tickets, and waits for the calls that have found theirs valid before.
    pub(super) async fn void_all(&self) {
        self.fence.void_all();
        // A call that takes a lock later sees the new versions.
        if !injected!(HastyClear) {
            self.locks.idle().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_that_are_not_in_use_are_removed() {
        struct Store;
        let is_registered = |domain| lock(&FENCES).contains_key(&(TypeId::of::<Store>(), domain));
        let kept = SharedFence::of::<Store>(1);
        drop(SharedFence::of::<Store>(2));
        drop(SharedFence::of::<Store>(3));
        assert!(is_registered(1) && !is_registered(2));
        drop(kept);
    }
}
