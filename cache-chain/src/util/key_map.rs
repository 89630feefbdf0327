//! Maps and sets of keys, which are hashed already.
//!
//! Not for tables whose shards are chosen by the same hash: the keys of a shard would share places.

use std::collections::{HashMap, HashSet};

use cache_core::{Key, backend::BuildFingerprintHasher};

pub(crate) type KeyMap<T> = HashMap<Key, T, BuildFingerprintHasher>;
pub(crate) type KeySet = HashSet<Key, BuildFingerprintHasher>;
