//! The column `id` of a key, as store-sql defines it.

use sha2::{Digest as _, Sha256};

/// Returns the id: the key, or a zero byte and the SHA-256 digest of a key that is longer than 255
/// bytes or begins with a zero byte.
pub(super) fn id_of(key: &[u8]) -> Vec<u8> {
    if key.len() <= 255 && key.first() != Some(&0) {
        return key.to_vec();
    }
    let mut id = vec![0];
    id.extend_from_slice(&Sha256::digest(key));
    id
}
