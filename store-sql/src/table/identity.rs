//! The columns that identify a key in the table.

use cache_core::Key;
use sha2::{Digest as _, Sha256};

/// The columns `id` and `full_key` of a key.
///
/// The id of a key of up to 255 bytes is the key itself, so that it can be queried by hand. The id
/// of a longer key, or of a key that begins with a zero byte, is a zero byte and the SHA-256
/// digest; no key of the first kind begins with a zero byte. `full_key` then holds the whole key,
/// which is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) id: Vec<u8>,
    pub(crate) full_key: Option<Vec<u8>>,
}

impl Identity {
    /// The largest number of bytes of an id.
    pub(crate) const MAX: usize = 255;

    pub(crate) fn of(key: &Key) -> Self {
        let bytes = key.as_bytes();
        if bytes.len() <= Self::MAX && bytes.first() != Some(&0) {
            return Self { id: bytes.to_vec(), full_key: None };
        }
        let mut id = vec![0];
        id.extend_from_slice(&Sha256::digest(bytes));
        Self { id, full_key: Some(bytes.to_vec()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Identity {
        Identity::of(&Key::new(bytes).unwrap())
    }

    #[test]
    fn short_keys_stand_as_they_are_and_long_ones_as_digests() {
        assert_eq!(of(b"users:42"), Identity { id: b"users:42".to_vec(), full_key: None });
        assert_eq!(of(&[0xff; 255]), Identity { id: vec![0xff; 255], full_key: None });
        let long = of(&[b'k'; 256]);
        assert_eq!((long.id.len(), long.id[0]), (33, 0));
        assert_eq!(long.full_key, Some(vec![b'k'; 256]));
        assert_ne!(of(&[b'l'; 256]).id, long.id);
    }

    #[test]
    fn a_key_that_looks_like_a_digest_is_none() {
        let long = of(&[b'k'; 256]);
        let forged = of(&long.id);
        assert_ne!(forged.id, long.id);
        assert_eq!(forged.full_key, Some(long.id));
        assert_eq!(of(b"\0").id.len(), 33);
    }
}
