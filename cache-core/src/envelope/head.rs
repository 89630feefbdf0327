//! The head of a record, which can be changed without the payload.

use super::{
    ABSENT, AGELESS, CHECKSUM, EXPIRES, EXTENDED, EXTENSION, Envelope, HEADER, LEASE, MAGIC, STALES, VALIDATOR,
    VERSION, header, u32_at, u64_at,
};
use crate::{Codec, life::Life};

/// The flags that depend on the life.
const LIFE_FLAGS: u8 = EXPIRES | STALES | AGELESS | EXTENDED;

/// The first bytes of a record, as [`Envelope::peek`] reads them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peeked {
    /// The head of a record with a value.
    Value(Head),
    /// The marker of a lease, or the record of a key that has no value.
    NoValue,
    /// Anything else, such as a record of an earlier format version or of another codec or schema.
    /// [`Envelope::open`] reads the whole record and returns its content or the error.
    Unknown,
}

/// The bytes of a record before the payload.
///
/// A store that can replace a few bytes in place changes the lifetime of an entry without
/// transferring its value: it reads the head and the length of the record, and writes another head
/// over it. The checksum of the record changes with it. CRC-32 is affine, so the difference of two
/// checksums depends only on the difference of the heads and on the number of bytes that follow.
/// A record that was corrupt stays corrupt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    bytes: Vec<u8>,
    life: Life,
    /// The number of bytes after the head.
    rest: usize,
}

impl Envelope<()> {
    /// The largest number of bytes that [`peek`](Self::peek) needs from the beginning of a record.
    pub const MAX_HEAD: usize = HEADER + EXTENSION;
}

impl<C> Envelope<C> {
    /// Reads the head of a record of `length` bytes that begins with `prefix`: with its first
    /// [`Envelope::MAX_HEAD`] bytes, or with the whole record if that is shorter.
    ///
    /// The checksum is not verified, because it covers the payload. The record may be corrupt, or
    /// belong to another key.
    pub fn peek<V>(&self, prefix: &[u8], length: usize) -> Peeked
    where
        C: Codec<V>,
    {
        if prefix.len() < HEADER || prefix[..3] != MAGIC || prefix[3] != VERSION {
            return Peeked::Unknown;
        }
        if prefix[4] & (LEASE | ABSENT) != 0 {
            return Peeked::NoValue;
        }
        let is_ours = (prefix[5], u32_at(prefix, 6)) == (C::ID, self.schema);
        match Head::parse(prefix, length) {
            Some(head) if is_ours => Peeked::Value(head),
            _ => Peeked::Unknown,
        }
    }
}

impl Head {
    fn parse(prefix: &[u8], length: usize) -> Option<Self> {
        let flags = prefix[4];
        // A validator is a part of what follows the head.
        if flags & !(LIFE_FLAGS | VALIDATOR) != 0 {
            return None;
        }
        let start = if flags & EXTENDED == 0 { HEADER } else { HEADER + EXTENSION };
        let (bytes, rest) = (prefix.get(..start)?.to_vec(), length.checked_sub(start)?);
        let mut life = Life::new(u64_at(&bytes, 18), (flags & EXPIRES != 0).then(|| u64_at(&bytes, 26)));
        if flags & EXTENDED != 0 {
            life.stale = (flags & STALES != 0).then(|| u64_at(&bytes, 42));
            life.load_millis = u32_at(&bytes, 50);
            life.age_millis = (flags & AGELESS == 0).then(|| u32_at(&bytes, 54));
        }
        let head = Self { bytes, life, rest };
        // Fields without meaning are zero, and the head is as short as it can be.
        (head.with_life(life)? == head.bytes).then_some(head)
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the life of the record.
    pub fn life(&self) -> Life {
        self.life
    }

    /// Returns the head of the same record with another lifetime: when it expires and when it turns
    /// stale, `None` if it does not. Returns `None` if the new head has another length, so that it
    /// cannot replace this one in place.
    pub fn with_lifetime(&self, expires: Option<u64>, stale: Option<u64>) -> Option<Vec<u8>> {
        self.with_life(Life { expires, stale, ..self.life })
    }

    fn with_life(&self, life: Life) -> Option<Vec<u8>> {
        let old = &self.bytes;
        let mut new = header(old[4] & !LIFE_FLAGS, (old[5], u32_at(old, 6)), u64_at(old, 10), life);
        if new.len() != old.len() {
            return None;
        }
        new[Envelope::EPOCH].copy_from_slice(&old[Envelope::EPOCH]);
        let mut change = crc32fast::Hasher::new_with_initial(checksum(old) ^ checksum(&new));
        // Appends as many zero bytes as follow the head.
        change.combine(&crc32fast::Hasher::new_with_initial_len(0, self.rest as u64));
        let checksum = u32_at(old, CHECKSUM) ^ change.finalize();
        new[CHECKSUM..HEADER].copy_from_slice(&checksum.to_le_bytes());
        Some(new)
    }
}

/// Returns the checksum of the head alone. The key, which comes before it in the checksum of the
/// record, is the same for both heads and does not change the difference.
fn checksum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..CHECKSUM]);
    hasher.update(&head[HEADER..]);
    hasher.finalize()
}
