//! The envelope: what a store that keeps bytes puts in front of every payload.

use std::fmt;

use crate::{Codec, Error, ErrorKind, Life, Result};

/// Seals values into records and opens them again.
///
/// A record, all integers little-endian:
///
/// | bytes | what |
/// |---|---|
/// | 0..3 | magic, `MLC` |
/// | 3 | format version, 1 or 2 |
/// | 4 | flags: 1 lease (no payload), 2 expires; in version 2 also 4 turns stale, 8 absent (no payload), 16 of unknown age |
/// | 5 | the codec's id, 0 in a lease |
/// | 6..10 | schema tag, 0 in a lease |
/// | 10..18 | id of this write: random, what a [`Ticket`](crate::Ticket) remembers |
/// | 18..26 | created: when this record was written, Unix milliseconds |
/// | 26..34 | expires, Unix milliseconds; 0 without the flag |
/// | 34..38 | length of the payload |
/// | 38..42 | CRC-32 (ISO-HDLC) of bytes 0..38 and 42.. |
/// | 42..50 | version 2 alone: stale from, Unix milliseconds; 0 without the flag |
/// | 50..54 | version 2 alone: how long it took to load, in milliseconds |
/// | 54..58 | version 2 alone: how old it was when it was written, in milliseconds; 0 with the flag |
/// | 42.. or 58.. | payload |
///
/// What needs nothing of version 2 is written as version 1. The checksum leaves out itself.
///
/// Anything else is an error of kind [`Codec`](ErrorKind::Codec): another codec, another schema, a record that was cut,
/// changed or goes on. The checksum finds accidents; it does not authenticate.
#[derive(Clone)]
pub struct Envelope<C> {
    codec: C,
    schema: u32,
}

/// What a record holds, before the payload is decoded.
enum Sealed<'a> {
    Lease,
    Absent(Life),
    Value { life: Life, payload: &'a [u8] },
}

/// What a record holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Opened<V> {
    /// No value: the mark of somebody's lease.
    Lease,
    /// That there is no value, and for how long.
    Absent(Life),
    /// A value and its life.
    Value(V, Life),
}

impl<V> fmt::Debug for Opened<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease => f.write_str("Lease"),
            Self::Absent(life) => f.debug_tuple("Absent").field(life).finish(),
            Self::Value(_, life) => f.debug_tuple("Value").field(life).finish_non_exhaustive(),
        }
    }
}

const MAGIC: [u8; 3] = *b"MLC";
const HEADER: usize = 42;
/// What version 2 adds to the header.
const ADDED: usize = 16;
const CHECKSUM: usize = 38;
const LEASE: u8 = 1;
const EXPIRES: u8 = 2;
const STALES: u8 = 4;
const ABSENT: u8 = 8;
const AGELESS: u8 = 16;

impl Envelope<()> {
    /// The most bytes of payload that a record may have: 16 MiB.
    pub const MAX_PAYLOAD: usize = 16 << 20;

    /// Where in a record the id of the write stands, for stores that compare it in place.
    pub const WRITE_ID: std::ops::Range<usize> = 10..18;

    /// The tag of a schema by name.
    pub fn schema_tag(name: &str) -> u32 {
        crc32fast::hash(name.as_bytes())
    }

    /// Where in a record stands when it was written, likewise.
    pub const CREATED: std::ops::Range<usize> = 18..26;

    /// The record that marks a lease which is taken at `created`.
    pub fn lease(write_id: u64, created: u64) -> Vec<u8> {
        let mut record = header(1, LEASE, (0, 0), write_id, Life::new(created, None));
        finish(&mut record);
        record
    }
}

impl<C> Envelope<C> {
    /// Seals with `codec`, for a type whose schema has this tag; see [`Envelope::schema_tag`].
    pub fn new(codec: C, schema: u32) -> Self {
        Self { codec, schema }
    }

    /// The codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// The record of `value`.
    ///
    /// # Errors
    ///
    /// Of kind `Codec` if the value has no encoding or one of more than [`Envelope::MAX_PAYLOAD`] bytes.
    pub fn seal<V>(&self, value: &V, life: Life, write_id: u64) -> Result<Vec<u8>>
    where
        C: Codec<V>,
    {
        let mut record = self.begin(0, C::ID, life, write_id);
        let start = record.len();
        self.codec.encode(value, &mut record)?;
        if record.len() - start > Envelope::MAX_PAYLOAD {
            return Err(Error::new(
                ErrorKind::Codec,
                "the encoded value is larger than 16 MiB; cache its parts under keys of their own",
            ));
        }
        finish(&mut record);
        Ok(record)
    }

    /// The record that says that there is no value.
    pub fn seal_absent<V>(&self, life: Life, write_id: u64) -> Vec<u8>
    where
        C: Codec<V>,
    {
        let mut record = self.begin(ABSENT, C::ID, life, write_id);
        finish(&mut record);
        record
    }

    fn begin(&self, mut flags: u8, codec: u8, life: Life, write_id: u64) -> Vec<u8> {
        flags |= life.expires.map_or(0, |_| EXPIRES) | life.stale.map_or(0, |_| STALES);
        flags |= life.age_millis.map_or(AGELESS, |_| 0);
        let version = if flags & !EXPIRES != 0 || life.load_millis > 0 || life.age_millis != Some(0) { 2 } else { 1 };
        header(version, flags, (codec, self.schema), write_id, life)
    }

    /// What `record` holds.
    ///
    /// # Errors
    ///
    /// Of kind `Codec` if it is no record of this codec and schema, or its payload does not decode.
    pub fn open<V>(&self, record: &[u8]) -> Result<Opened<V>>
    where
        C: Codec<V>,
    {
        match parse(record, C::ID, self.schema)? {
            Sealed::Lease => Ok(Opened::Lease),
            Sealed::Absent(life) => Ok(Opened::Absent(life)),
            Sealed::Value { life, payload } => Ok(Opened::Value(self.codec.decode(payload)?, life)),
        }
    }
}

impl<C> fmt::Debug for Envelope<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("schema", &self.schema).finish_non_exhaustive()
    }
}

fn header(version: u8, flags: u8, (codec, schema): (u8, u32), write_id: u64, life: Life) -> Vec<u8> {
    let mut record = Vec::with_capacity(128);
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&[version, flags, codec]);
    record.extend_from_slice(&schema.to_le_bytes());
    record.extend_from_slice(&write_id.to_le_bytes());
    record.extend_from_slice(&life.created.to_le_bytes());
    record.extend_from_slice(&life.expires.unwrap_or(0).to_le_bytes());
    record.resize(HEADER, 0);
    if version > 1 {
        record.extend_from_slice(&life.stale.unwrap_or(0).to_le_bytes());
        record.extend_from_slice(&life.load_millis.to_le_bytes());
        record.extend_from_slice(&life.age_millis.unwrap_or(0).to_le_bytes());
    }
    record
}

/// How many bytes come before the payload in a record of this version.
fn header_len(version: u8) -> usize {
    if version > 1 { HEADER + ADDED } else { HEADER }
}

/// Fills in length and checksum. The payload must not exceed `MAX_PAYLOAD`.
fn finish(record: &mut [u8]) {
    let length = u32::try_from(record.len() - header_len(record[3])).expect("at most 16 MiB");
    record[34..38].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(record);
    record[CHECKSUM..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..CHECKSUM]);
    hasher.update(&record[HEADER..]);
    hasher.finalize()
}

fn parse(record: &[u8], codec: u8, schema: u32) -> Result<Sealed<'_>> {
    let bad = |message| Err(Error::new(ErrorKind::Codec, message));
    if record.len() < HEADER || record[..3] != MAGIC {
        return bad("the stored bytes are not a record of this cache");
    }
    let version = record[3];
    if !matches!(version, 1 | 2) {
        return bad("the stored record is of a format that this version does not know");
    }
    let Some(payload) = record.get(header_len(version)..) else { return bad("the stored record was cut or changed") };
    if u32_at(record, 34) as usize != payload.len() || u32_at(record, CHECKSUM) != checksum(record) {
        return bad("the stored record was cut or changed");
    }
    let (flags, id, tag) = (record[4], record[5], u32_at(record, 6));
    if (version, flags, id, tag) == (1, LEASE, 0, 0) && payload.is_empty() && u64_at(record, 26) == 0 {
        return Ok(Sealed::Lease);
    }
    let known = if version > 1 { EXPIRES | STALES | ABSENT | AGELESS } else { EXPIRES };
    let mut life = Life::new(u64_at(record, 18), (flags & EXPIRES != 0).then(|| u64_at(record, 26)));
    let mut unused = life.expires.is_none() && u64_at(record, 26) != 0;
    if version > 1 {
        life.stale = (flags & STALES != 0).then(|| u64_at(record, 42));
        life.load_millis = u32_at(record, 50);
        life.age_millis = (flags & AGELESS == 0).then(|| u32_at(record, 54));
        unused |= life.stale.is_none() && u64_at(record, 42) != 0;
        unused |= life.age_millis.is_none() && u32_at(record, 54) != 0;
    }
    if flags & !known != 0 || unused {
        return bad("the stored record has flags that this version does not know");
    }
    if id != codec {
        return bad("the stored record was written with another codec");
    }
    if tag != schema {
        return bad("the stored record is of another type or schema");
    }
    match flags & ABSENT != 0 {
        true if payload.is_empty() => Ok(Sealed::Absent(life)),
        true => bad("the stored record says that there is no value, and has one"),
        false => Ok(Sealed::Value { life, payload }),
    }
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"))
}
