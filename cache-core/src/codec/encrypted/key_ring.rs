use std::{fmt, sync::Arc};

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

use crate::{Error, ErrorKind, Result};

/// A key of [`Encrypted`](super::Encrypted): an id, which each value that it encrypts names, and 32
/// secret bytes.
///
/// The bytes must come from a source of random bytes for cryptography, such as `openssl rand 32`, or
/// from a key management service. A passphrase is no key. An id may be any number; never give the id
/// of an earlier key to other bytes.
///
/// Dropping a key overwrites its bytes in memory. `Debug` shows only the id.
pub struct EncryptionKey {
    id: u32,
    /// Overwrites the key when it is dropped. In a box, because a move would leave a copy behind.
    cipher: Box<XChaCha20Poly1305>,
}

impl EncryptionKey {
    /// Creates a key. Overwriting the `secret` that was passed is up to the caller.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_core::codec::EncryptionKey;
    ///
    /// # fn decoded_secret() -> Vec<u8> { vec![7; 32] }
    /// let secret: Vec<u8> = decoded_secret();
    /// let key = EncryptionKey::new(1, secret.as_slice().try_into()?);
    /// assert_eq!(key.id(), 1);
    /// # Ok::<(), std::array::TryFromSliceError>(())
    /// ```
    pub fn new(id: u32, secret: &[u8; 32]) -> Self {
        Self { id, cipher: Box::new(XChaCha20Poly1305::new(secret.into())) }
    }

    /// Returns the id.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn cipher(&self) -> &XChaCha20Poly1305 {
        &self.cipher
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptionKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys of [`Encrypted`](super::Encrypted): the current one, which encrypts and decrypts, and any
/// others, which only decrypt.
///
/// [`Encrypted`](super::Encrypted#rotation-of-keys) describes how to replace a key. A clone shares the
/// same keys.
/// `Debug` shows only the ids.
#[derive(Clone)]
pub struct KeyRing(Arc<Keys>);

struct Keys {
    current: EncryptionKey,
    decrypt_only: Vec<EncryptionKey>,
}

impl KeyRing {
    /// Creates a key ring.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if two keys have the same id.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_core::codec::{EncryptionKey, KeyRing};
    ///
    /// # let (secret, older_secret) = ([7; 32], [6; 32]);
    /// let one_key = KeyRing::new(EncryptionKey::new(1, &older_secret), [])?;
    /// let rotated = KeyRing::new(EncryptionKey::new(2, &secret), [EncryptionKey::new(1, &older_secret)])?;
    /// # Ok::<(), cache_core::Error>(())
    /// ```
    pub fn new(current: EncryptionKey, decrypt_only: impl IntoIterator<Item = EncryptionKey>) -> Result<Self> {
        let ring = Self(Arc::new(Keys { current, decrypt_only: decrypt_only.into_iter().collect() }));
        let mut ids: Vec<u32> = ring.keys().map(EncryptionKey::id).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|ids| ids[0] == ids[1]) {
            Some(ids) => {
                let message = format!("two encryption keys have the id {}; give each key an id of its own", ids[0]);
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
            None => Ok(ring),
        }
    }

    pub(super) fn current(&self) -> &EncryptionKey {
        &self.0.current
    }

    pub(super) fn get(&self, id: u32) -> Option<&EncryptionKey> {
        self.keys().find(|key| key.id == id)
    }

    fn keys(&self) -> impl Iterator<Item = &EncryptionKey> {
        std::iter::once(&self.0.current).chain(&self.0.decrypt_only)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decrypt_only: Vec<u32> = self.0.decrypt_only.iter().map(EncryptionKey::id).collect();
        f.debug_struct("KeyRing").field("current", &self.0.current.id).field("decrypt_only", &decrypt_only).finish()
    }
}
