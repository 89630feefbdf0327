//! Maps and sets of keys, which are hashed already.

use std::collections::{HashMap, HashSet};

use cache_core::{Key, backend::BuildFingerprintHasher};

pub(crate) type KeyMap<T> = HashMap<Key, T, BuildFingerprintHasher>;
pub(crate) type KeySet = HashSet<Key, BuildFingerprintHasher>;
