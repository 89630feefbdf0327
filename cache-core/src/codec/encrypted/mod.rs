mod key_ring;

use chacha20poly1305::{AeadInOut, XNonce, aead::inout::InOutBuf};
use smallvec::SmallVec;

pub use self::key_ring::{EncryptionKey, KeyRing};
use super::{Codec, another_codec};
use crate::{Error, ErrorKind, Result};

/// Another codec, whose payloads are encrypted and authenticated with XChaCha20-Poly1305, by
/// [chacha20poly1305](https://docs.rs/chacha20poly1305/0.11).
///
/// A reader of the store, its backups or its traffic does not see the values. A writer to the store
/// cannot forge a value, nor move one to a record of another name. A changed, forged or moved value is
/// an error of kind [`Codec`](ErrorKind::Codec), which a chain treats as a miss. The name of a record
/// is its key with the namespace, such as `users:42`.
///
/// Nonces are random and come from the operating system. They have 192 bits, so any number of
/// processes may share a key.
///
/// # Not protected
///
/// - The length of a value. The encrypted payload is 46 bytes longer than that of the inner codec.
/// - The names of keys, their TTLs, and the times at which they are read and written.
/// - The header of a record: the times, the validator, the tag of the schema, and the flag that says
///   that there is no value. A writer to the store can extend the life of a value, or replace it by a
///   record without a value.
/// - Replay. A writer to the store can restore an older value of the same name. It may come from
///   another server, database or table, if the namespace and the keys are the same; use other keys in
///   each environment. It may also be from before a change of the type, because the tag of the schema
///   can be forged; if that matters, change the keys or the namespace with the type.
/// - Values in memory. A tier in memory above the store holds them decrypted.
/// - Secrets that are compressed together with text of an attacker. An attacker who can choose a part
///   of a value and see its length can find out whether that part repeats a secret in the same value.
///   Do not compress such values; see `Compressed`.
///
/// # Rotation of keys
///
/// The current key of the [`KeyRing`] encrypts. Any other key of the ring only decrypts.
///
/// 1. Add the new key to the ring of every process, as one that only decrypts.
/// 2. When all processes have it, make it the current one, and keep the old one for decryption.
/// 3. After the longest TTL, remove the old key. The remaining values that it encrypted are misses from
///    then on. These are values without a TTL, and values whose life was extended by a touch.
///
/// If a key was disclosed, remove it at once. Its values are misses then. Until then, values that are
/// forged with it are accepted.
///
/// # Format
///
/// | bytes | what |
/// |---|---|
/// | 0 | format: 1, XChaCha20-Poly1305 |
/// | 1 | the id of the inner codec |
/// | 2..6 | the id of the encryption key, little-endian |
/// | 6..30 | the nonce |
/// | 30.. | the encrypted payload of the inner codec |
/// | last 16 | the tag of Poly1305 |
///
/// The associated data are bytes 0..6 and the name of the record, which stores give to
/// [`encode_for`](Codec::encode_for) and [`decode_for`](Codec::decode_for). [`encode`](Codec::encode)
/// and [`decode`](Codec::decode), which have no name, fail.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "json")]
/// # fn main() -> cache_core::Result<()> {
/// use cache_core::{
///     Codec, ErrorKind,
///     codec::{Encrypted, EncryptionKey, Json, KeyRing},
/// };
///
/// // 32 random bytes each, from wherever your application keeps secrets.
/// let (secret, older_secret) = ([7; 32], [6; 32]);
/// let keys = KeyRing::new(EncryptionKey::new(2, &secret), [EncryptionKey::new(1, &older_secret)])?;
/// // A store takes it with `.codec(codec)`.
/// let codec = Encrypted::new(Json, keys);
///
/// let mut bytes = Vec::new();
/// codec.encode_for(b"users:42", &"Ada".to_owned(), &mut bytes)?;
/// let user: String = codec.decode_for(b"users:42", &bytes)?;
/// assert_eq!(user, "Ada");
/// let moved: cache_core::Result<String> = codec.decode_for(b"users:1", &bytes);
/// assert_eq!(moved.unwrap_err().kind(), ErrorKind::Codec);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "json"))]
/// # fn main() {}
/// ```
///
/// With compression, which comes first:
///
/// ```
/// # #[cfg(all(feature = "json", feature = "zstd"))] {
/// use cache_core::codec::{Compressed, Encrypted, EncryptionKey, Json, KeyRing};
///
/// # let secret = [7; 32];
/// let keys = KeyRing::new(EncryptionKey::new(1, &secret), [])?;
/// let codec = Encrypted::new(Compressed::new(Json), keys);
/// # }
/// # Ok::<(), cache_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Encrypted<C> {
    inner: C,
    keys: KeyRing,
}

/// The only format.
const FORMAT: u8 = 1;
/// The number of bytes before the nonce. They are part of the associated data.
const HEADER: usize = 6;
const NONCE: usize = 24;
const TAG: usize = 16;

impl<C> Encrypted<C> {
    /// Wraps a codec.
    pub fn new(inner: C, keys: KeyRing) -> Self {
        Self { inner, keys }
    }
}

// The compiler shows the hint of `Codec` instead, which names what is missing.
#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods)]
impl<V, C: Codec<V>> Codec<V> for Encrypted<C> {
    const ID: u8 = 6;

    fn encode(&self, _: &V, _: &mut Vec<u8>) -> Result<()> {
        bad(NAMELESS)
    }

    fn decode(&self, _: &[u8]) -> Result<V> {
        bad(NAMELESS)
    }

    fn encode_for(&self, name: &[u8], value: &V, out: &mut Vec<u8>) -> Result<()> {
        let key = self.keys.current();
        let mut nonce = XNonce::default();
        getrandom::fill(&mut nonce).map_err(|error| {
            Error::with_source(ErrorKind::Codec, "the system has no random bytes for a nonce", error)
        })?;
        let header = header(C::ID, key.id());
        out.extend_from_slice(&header);
        out.extend_from_slice(&nonce);
        let start = out.len();
        self.inner.encode_for(name, value, out)?;
        let tag = key
            .cipher()
            .encrypt_inout_detached(&nonce, &associated_data(header, name), (&mut out[start..]).into())
            .map_err(|_| Error::new(ErrorKind::Codec, "the encoded value is too large to be encrypted"))?;
        out.extend_from_slice(&tag);
        Ok(())
    }

    fn decode_for(&self, name: &[u8], bytes: &[u8]) -> Result<V> {
        let payload = self.decrypt(C::ID, name, bytes)?;
        self.inner.decode_for(name, &payload)
    }

    fn shape(&self) -> Option<u32> {
        self.inner.shape()
    }
}

impl<C> Encrypted<C> {
    fn decrypt(&self, codec: u8, name: &[u8], bytes: &[u8]) -> Result<Vec<u8>> {
        if bytes.first().is_some_and(|format| *format != FORMAT) {
            return bad("the stored bytes are not encrypted in a format that this version knows");
        }
        let Some((header, nonce, encrypted, tag)) = split(bytes) else {
            return bad("the encrypted value was cut");
        };
        let [_, id, key @ ..] = *header;
        if id != codec {
            return Err(another_codec());
        }
        let id = u32::from_le_bytes(key);
        let Some(key) = self.keys.get(id) else {
            let message = format!(
                "the value was encrypted with key {id}, which is not in the key ring; add the key, unless it was removed"
            );
            return Err(Error::new(ErrorKind::Codec, message));
        };
        let mut payload = vec![0; encrypted.len()];
        let buffer = InOutBuf::new(encrypted, &mut payload).expect("the buffers are of one length");
        let data = associated_data(*header, name);
        match key.cipher().decrypt_inout_detached(nonce.into(), &data, buffer, tag.into()) {
            Ok(()) => Ok(payload),
            Err(_) => bad(
                "the encrypted value was changed or moved from another name, or the key of this id in the key ring has other bytes",
            ),
        }
    }
}

/// Without this error, a codec around `Encrypted` that forgets the name would bind all values to the
/// same one.
const NAMELESS: &str = "an encrypted value is bound to the name of its record: a codec around `Encrypted` must implement \
                        `encode_for` and `decode_for`, and pass the name on";

/// The bytes before the nonce.
fn header(codec: u8, key: u32) -> [u8; HEADER] {
    let [a, b, c, d] = key.to_le_bytes();
    [FORMAT, codec, a, b, c, d]
}

type Parts<'a> = (&'a [u8; HEADER], &'a [u8; NONCE], &'a [u8], &'a [u8; TAG]);

fn split(bytes: &[u8]) -> Option<Parts<'_>> {
    let (header, rest) = bytes.split_first_chunk()?;
    let (nonce, rest) = rest.split_first_chunk()?;
    let (encrypted, tag) = rest.split_last_chunk()?;
    Some((header, nonce, encrypted, tag))
}

/// Returns what a payload is bound to. The name comes last, because only its length varies.
fn associated_data(header: [u8; HEADER], name: &[u8]) -> SmallVec<[u8; 128]> {
    let mut data = SmallVec::from_slice(&header);
    data.extend_from_slice(name);
    data
}

fn bad<T>(message: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::Codec, message))
}

#[cfg(test)]
mod tests;
