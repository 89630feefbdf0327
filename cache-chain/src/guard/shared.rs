//! The leases of one store, shared by all chains over it.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use cache_core::{Key, Ticket};

use super::key_locks::{KeyLock, KeyLocks};

const STRIPES: usize = 4096;

/// The leases of one store: versions by stripes of keys, and a lock per key for the calls of the store.
///
/// Keys that share a stripe void each other's tickets now and then, which costs one more read below. They never wait for each
/// other: code of the application may run while a key is locked, and may write another key.
#[derive(Debug)]
pub(super) struct Guard {
    versions: Box<[AtomicU64]>,
    pub(super) locks: KeyLocks,
}

/// The type of a store and its domain; see [`cache_core::Profile::domain`].
type Identity = (TypeId, u64);

/// Every guard in use. Two chains over one store share its guard, or a fill by one would not see a write by the other.
static GUARDS: LazyLock<Mutex<HashMap<Identity, Weak<Guard>>>> = LazyLock::new(Mutex::default);

impl Guard {
    fn new() -> Self {
        Self { versions: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(), locks: KeyLocks::default() }
    }

    /// Returns the guard of the stores of this type and domain.
    pub(super) fn of<S: 'static>(domain: u64) -> Arc<Self> {
        let mut guards = GUARDS.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = (TypeId::of::<S>(), domain);
        if let Some(guard) = guards.get(&identity).and_then(Weak::upgrade) {
            return guard;
        }
        // Stores come and go; only those in use are kept.
        guards.retain(|_, guard| guard.strong_count() > 0);
        let guard = Arc::new(Self::new());
        guards.insert(identity, Arc::downgrade(&guard));
        guard
    }

    fn version(&self, key: &Key) -> &AtomicU64 {
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits are used")]
        let low = key.fingerprint().low as usize;
        &self.versions[low % STRIPES]
    }

    pub(super) fn lease(&self, key: &Key) -> Ticket {
        Ticket::at(self.version(key).load(Ordering::Acquire))
    }

    /// Whether a ticket is good. It stays so until the key, or another of its stripe, is written; the caller holds the key's lock.
    pub(super) fn is_current(&self, key: &Key, ticket: Ticket) -> bool {
        ticket.version().is_none_or(|version| version == self.version(key).load(Ordering::Acquire))
    }

    /// Voids all tickets of the key; the caller holds its lock.
    pub(super) fn void(&self, key: &Key) {
        self.version(key).fetch_add(1, Ordering::AcqRel);
    }

    /// Locks the key and voids its tickets.
    pub(super) async fn begin_write(&self, key: &Key) -> KeyLock<'_> {
        let locked = self.locks.lock(key).await;
        self.void(key);
        locked
    }

    /// Voids all tickets, and waits for the calls that have found theirs good before.
    pub(super) async fn void_all(&self) {
        for version in &self.versions {
            version.fetch_add(1, Ordering::AcqRel);
        }
        // A call that takes a lock later sees the new versions.
        self.locks.idle().await;
    }
}
