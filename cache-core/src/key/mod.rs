//! Keys, and their conversion into bytes and a fingerprint.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use smallvec::SmallVec;

use crate::{Error, ErrorKind, Result, hash::hash_key};

#[cfg(test)]
mod tests;
mod types;

pub use self::types::DisplayKey;

/// The number of bytes that a key holds without an allocation. With the fingerprint, a `Key` then
/// fills one cache line.
const INLINE: usize = 48;

/// A type that identifies a cached value: a string, a number, a tuple of those, or a type of your
/// own.
///
/// A key is the bytes that [`write_key`](Self::write_key) writes. Two keys that write the same
/// bytes are the same key, also if their types differ: `42` and `"42"` are one key. Numbers are
/// written in decimal, so that operators can read the keys in a store.
///
/// The fields of a tuple are joined by `:`; a `:` or `\` inside a field is escaped with `\`. So
/// `("a:b", "c")` and `("a", "b:c")` differ, and tuples of the same types are equal only if their
/// fields are.
///
/// The feature `derive` implements this trait for structs and enums: `#[derive(CacheKey)]`. The
/// feature `uuid` implements it for `uuid::Uuid`. [`DisplayKey`] makes a key of any type that
/// implements [`Display`](fmt::Display).
///
/// # Examples
///
/// A type of your own; the implementation is similar to that of `Display`:
///
/// ```
/// use cache_core::{CacheKey, DelegateCache, Key, KeyWriter};
/// use store_stretto::StrettoStore;
///
/// struct UserKey {
///     tenant: String,
///     id: u64,
/// }
///
/// impl CacheKey for UserKey {
///     fn write_key(&self, out: &mut KeyWriter) {
///         out.field("user").field(&self.tenant).field(&self.id);
///     }
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> cache_core::Result<()> {
///     let key = UserKey { tenant: "acme".into(), id: 42 };
///     assert_eq!(Key::new(&key)?.as_bytes(), b"user:acme:42");
///
///     let users = DelegateCache::new(StrettoStore::new(10_000)?);
///     users.set(key, "Ada".to_owned()).await?;
///     // A tuple of the same fields is the same key.
///     assert_eq!(users.get(("user", "acme", 42)).await?.as_deref(), Some("Ada"));
///     Ok(())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a cache key",
    label = "not a cache key",
    note = "strings, integers, bytes, and tuples of keys are keys; floats are not, as 0.0 and -0.0 are equal",
    note = "derive it with `#[derive(CacheKey)]` (feature `derive`), or implement it as you would implement `Display`",
    note = "a type of another crate that implements `Display` is a key if you wrap it in `DisplayKey`"
)]
pub trait CacheKey {
    /// Writes the bytes of this key. Each call must write the same bytes.
    fn write_key(&self, out: &mut KeyWriter);
}

/// The buffer that a [`CacheKey`] writes its bytes to.
///
/// It also implements [`fmt::Write`], for `write!`. It keeps one byte more than [`Key::MAX_LEN`],
/// by which [`Key::new`] recognizes a key that is too long.
pub struct KeyWriter {
    bytes: SmallVec<[u8; INLINE]>,
    /// The number of tuples around the current field. `:` and `\` are escaped once for each.
    depth: u32,
    /// `true` if a field was written at this depth.
    has_field: bool,
}

impl KeyWriter {
    #[inline]
    fn new() -> Self {
        Self { bytes: SmallVec::new(), depth: 0, has_field: false }
    }

    /// Returns the fingerprint of the key.
    #[inline]
    fn fingerprint(&self) -> Result<Fingerprint> {
        if self.bytes.is_empty() || self.bytes.len() > Key::MAX_LEN {
            return Err(self.reason_against());
        }
        Ok(Fingerprint::of(&self.bytes))
    }

    #[cold]
    fn reason_against(&self) -> Error {
        let reason = if self.bytes.is_empty() {
            "the cache key is empty; a key needs at least one byte"
        } else {
            "the cache key is longer than 65536 bytes; use a digest of it as the key"
        };
        Error::new(ErrorKind::InvalidInput, reason)
    }

    /// Appends bytes.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> &mut Self {
        let fitting = bytes.len().min(Key::MAX_LEN + 1 - self.bytes.len());
        if self.depth == 0 {
            self.bytes.extend_from_slice(&bytes[..fitting]);
        } else {
            self.bytes.reserve(fitting);
            for &byte in bytes {
                self.put(byte, self.depth);
            }
        }
        self
    }

    /// Appends a field: a `:` unless it is the first field, then the bytes of the field. A `:` or a
    /// `\` in these bytes is escaped, so the end of the field is unambiguous.
    pub fn field<K: CacheKey + ?Sized>(&mut self, field: &K) -> &mut Self {
        if self.has_field {
            self.put(b':', self.depth);
        }
        self.depth += 1;
        self.has_field = false;
        field.write_key(self);
        self.depth -= 1;
        self.has_field = true;
        self
    }

    /// Appends one byte that is inside `depth` tuples. Each depth escapes the bytes of the depth
    /// within.
    fn put(&mut self, byte: u8, depth: u32) {
        if self.bytes.len() > Key::MAX_LEN {
            return;
        }
        if depth == 0 {
            self.bytes.push(byte);
            return;
        }
        if byte == b':' || byte == b'\\' {
            self.put(b'\\', depth - 1);
        }
        self.put(byte, depth - 1);
    }
}

impl fmt::Write for KeyWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

impl fmt::Debug for KeyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyWriter").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// The bytes of a key and their fingerprint, computed once and used by every tier.
///
/// - A key has 1 to [`Key::MAX_LEN`] bytes of any value.
/// - A key of up to 48 bytes does not allocate. A longer one allocates when it is created and when
///   it is cloned.
/// - Keys are equal if their bytes are equal. The fingerprint only speeds up the comparison.
///
/// Caches take any [`CacheKey`] and convert it themselves. Applications get a `Key` in loaders and
/// in the closures of an [`Origin`](crate::Origin).
///
/// # Examples
///
/// ```
/// use cache_core::{ErrorKind, Key};
///
/// fn main() -> cache_core::Result<()> {
///     let key = Key::new(&("users", 42))?;
///     assert_eq!(key.as_str(), Some("users:42"));
///     assert_eq!(key, Key::new("users:42")?);
///     assert_eq!(Key::new("").unwrap_err().kind(), ErrorKind::InvalidInput);
///     Ok(())
/// }
/// ```
pub struct Key {
    bytes: SmallVec<[u8; INLINE]>,
    fingerprint: Fingerprint,
}

/// A 64-bit hash of a key's bytes: [foldhash](https://docs.rs/foldhash), keyed by a random seed of
/// this process.
///
/// All of its bits are of the same quality. Two keys can have the same fingerprint, so a store that
/// finds a row by it compares the keys ([`MemoryRow::read`](crate::backend::MemoryRow::read)). The
/// fingerprint of a key differs between processes, so do not store it or send it to another process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(pub u64);

impl Key {
    /// The length of the longest key, in bytes: 64 KiB.
    pub const MAX_LEN: usize = 64 * 1024;

    /// Converts a key.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`InvalidInput`](ErrorKind::InvalidInput) if the key is empty or
    /// longer than [`Key::MAX_LEN`].
    #[inline]
    pub fn new<K: CacheKey + ?Sized>(key: &K) -> Result<Self> {
        let mut writer = KeyWriter::new();
        key.write_key(&mut writer);
        // Hashed where they were written: to move bytes that were just written one by one is slow.
        let fingerprint = writer.fingerprint()?;
        Ok(Self { bytes: writer.bytes, fingerprint })
    }

    /// Converts several keys, and keeps their order.
    ///
    /// # Errors
    ///
    /// Returns the error of the first invalid key, as [`Key::new`].
    pub fn many<K: CacheKey>(keys: impl IntoIterator<Item = K>) -> Result<Vec<Self>> {
        keys.into_iter().map(|key| Self::new(&key)).collect()
    }

    /// Returns the bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the bytes as text, `None` if they are not UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        str::from_utf8(&self.bytes).ok()
    }

    /// Returns the fingerprint.
    #[inline]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Returns the number of bytes of memory that this key takes, with its allocation.
    pub fn memory(&self) -> usize {
        let spilled = if self.bytes.spilled() { self.bytes.capacity() } else { 0 };
        size_of::<Self>() + spilled
    }
}

impl Fingerprint {
    #[inline]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(hash_key(bytes))
    }
}

impl Clone for Key {
    #[inline]
    fn clone(&self) -> Self {
        // `SmallVec::clone` copies byte by byte.
        Self { bytes: SmallVec::from_slice(&self.bytes), fingerprint: self.fingerprint }
    }
}

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.bytes == other.bytes
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

/// Shows the key as text, in which bytes outside of printable ASCII are escaped.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(\"{}\")", self.bytes.escape_ascii())
    }
}
