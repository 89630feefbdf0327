//! Advisory locks that make a removal wait for insertions that are not committed yet.
//!
//! In PostgreSQL a `DELETE` neither sees nor waits for a row that another transaction has inserted
//! and not committed. A COMMIT can hang for long, for example while a synchronous standby is away,
//! and its caller has given up by then. So a transaction that inserts holds a shared lock until its
//! COMMIT has ended. A transaction that removes first takes the exclusive lock, and releases it
//! before the removal begins, so insertions wait only while it waits. The database releases the
//! locks at the end of their transaction.
//!
//! Each lock is for one of 64 stripes of keys, so that a batch of any size needs no more locks than
//! PostgreSQL has by default for each transaction (`max_locks_per_transaction`). Insertions share a
//! stripe without waiting.

use sha2::{Digest as _, Sha256};

/// The stripes of a namespace that a transaction locks.
#[derive(Clone, Copy, Default)]
pub(crate) struct KeyLocks {
    /// The number of the first stripe; the numbers of the others follow.
    base: i64,
    /// The stripes of the keys that may be inserted, one bit each.
    inserted: u64,
    /// The stripes of the keys that may be removed.
    removed: u64,
}

/// The number of stripes: the bits of a `u64`.
const STRIPES: i64 = 64;

impl KeyLocks {
    /// Creates an empty set of locks. Their numbers are the same in every process and every
    /// release.
    pub(crate) fn new(table: &str, namespace: &str) -> Self {
        // The zero byte separates the names; no table's name contains one.
        let hash = Sha256::new().chain_update(table).chain_update([0]).chain_update(namespace).finalize();
        Self { base: first_eight(&hash) & !(STRIPES - 1), inserted: 0, removed: 0 }
    }

    /// Adds the key with this id, which may be inserted.
    pub(crate) fn insert(&mut self, id: &[u8]) {
        self.inserted |= stripe(id);
    }

    /// Adds the key with this id, which may be removed.
    pub(crate) fn remove(&mut self, id: &[u8]) {
        self.removed |= stripe(id);
    }

    /// Adds all keys of the namespace, which may be removed.
    pub(crate) fn remove_all(&mut self) {
        self.removed = u64::MAX;
    }

    /// Returns the numbers of the locks to hold until the COMMIT, in the order in which all
    /// transactions take them.
    pub(crate) fn shared(&self) -> impl Iterator<Item = i64> {
        numbers(self.base, self.inserted)
    }

    /// Returns the numbers of the locks to wait for, in the same order.
    pub(crate) fn exclusive(&self) -> impl Iterator<Item = i64> {
        numbers(self.base, self.removed)
    }
}

fn numbers(base: i64, stripes: u64) -> impl Iterator<Item = i64> {
    (0..STRIPES).filter(move |stripe| stripes >> stripe & 1 == 1).map(move |stripe| base | stripe)
}

/// Returns the bit of a key's stripe.
fn stripe(id: &[u8]) -> u64 {
    1 << (first_eight(&Sha256::digest(id)) & (STRIPES - 1))
}

fn first_eight(hash: &[u8]) -> i64 {
    hash.iter().take(8).fold(0, |number, byte| number << 8 | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_stay_what_they_are() {
        // Processes of different releases must agree, or one does not wait for the other.
        let mut locks = KeyLocks::new("cache_entries", "users");
        locks.insert(b"42");
        locks.remove(b"43");
        assert_eq!(locks.shared().collect::<Vec<_>>(), [5_862_988_054_997_656_781]);
        assert_eq!(locks.exclusive().collect::<Vec<_>>(), [5_862_988_054_997_656_800]);
    }

    #[test]
    fn a_namespace_has_64_numbers_of_its_own_in_ascending_order() {
        let all = |table, namespace| {
            let mut locks = KeyLocks::new(table, namespace);
            locks.remove_all();
            locks.exclusive().collect::<Vec<_>>()
        };
        let users = all("t", "users");
        assert_eq!(users.len(), 64);
        assert!(users.is_sorted_by(|a, b| a < b));
        for other in [all("t", "orders"), all("u", "users"), all("tu", "sers")] {
            assert!(users.iter().all(|number| !other.contains(number)));
        }
    }

    #[test]
    fn keys_are_spread_over_the_stripes() {
        let mut locks = KeyLocks::new("t", "n");
        (0..1000_u32).for_each(|number| locks.insert(number.to_string().as_bytes()));
        assert_eq!(locks.shared().count(), 64);
        assert_eq!(locks.exclusive().count(), 0);
    }
}
