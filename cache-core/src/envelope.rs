//! The envelope: the header that a store of bytes puts before every payload.

mod description;
mod head;

use std::{borrow::Cow, fmt, ops::Range};

pub use self::{
    description::{Content, Description},
    head::{Head, Peeked},
};
use crate::{
    Codec, Entry, Error, ErrorKind, Result,
    codec::MAX_PAYLOAD,
    life::Life,
    record::{Opened, Record},
};

/// Seals values into records and opens them again.
///
/// A record, all integers little-endian:
///
/// | bytes | what |
/// |---|---|
/// | 0..3 | magic, `MLC` |
/// | 3 | format version, 3 |
/// | 4 | flags: 1 lease (no payload), 2 expires, 4 turns stale, 8 absent (no payload), 16 of unknown age, 32 extended, 64 has a validator (not if absent) |
/// | 5 | the codec's id, 0 in a lease |
/// | 6..10 | schema tag, 0 in a lease |
/// | 10..18 | random id of this write, which a [`Ticket`](crate::Ticket) holds |
/// | 18..26 | created: when this record was written, Unix milliseconds |
/// | 26..34 | expires, Unix milliseconds; 0 without the flag |
/// | 34..38 | epoch, see [`Binding`] |
/// | 38..42 | CRC-32 (ISO-HDLC) of the key, then bytes 0..38 and 42.. |
/// | 42..50 | extended: stale from, Unix milliseconds; 0 without the flag |
/// | 50..54 | extended: duration of the load, in milliseconds |
/// | 54..58 | extended: age when the record was written, in milliseconds; 0 with the flag |
/// | 42.. or 58.. | with a validator: its length, 1 to 1024, in 2 bytes, then the validator in UTF-8 |
/// | then | payload |
///
/// Records of versions 1 and 2 are read as well. Their bytes 34..38 are the length of the payload,
/// their checksum does not cover the key, and every record of version 2 is extended, without the
/// flag.
///
/// Anything else is an error of kind [`Codec`](ErrorKind::Codec): a record of another codec, schema
/// or key, or one that was truncated, changed or extended. The checksum detects accidental changes;
/// it does not authenticate. The codec `Encrypted` authenticates the payload, but not the header.
#[derive(Clone)]
pub struct Envelope<C> {
    codec: C,
    schema: u32,
    namespace: Option<Box<str>>,
}

/// The key and the run of the server that a record belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Binding<'a> {
    /// The key. A record that is found under another key, as after a `RENAME`, does not open.
    pub key: &'a [u8],
    /// A number of the run of the server in which the record was written, for stores on a server
    /// that may lose or restore old data; else 0.
    pub epoch: u32,
}

impl<'a> Binding<'a> {
    /// Creates the binding of a record.
    pub const fn new(key: &'a [u8], epoch: u32) -> Self {
        Self { key, epoch }
    }

    /// Returns the epoch of the run of a server with this name. It is never 0.
    pub fn epoch_of(run: &str) -> u32 {
        crc32fast::hash(run.as_bytes()).max(1)
    }
}

/// The content of a record, before the payload is decoded.
enum Sealed<'a> {
    Lease,
    Absent(Life),
    Value { life: Life, validator: Option<&'a str>, payload: &'a [u8] },
}

const MAGIC: [u8; 3] = *b"MLC";
const VERSION: u8 = 3;
const HEADER: usize = 42;
/// The additional bytes of an extended header.
const EXTENSION: usize = 16;
const CHECKSUM: usize = 38;
const LEASE: u8 = 1;
const EXPIRES: u8 = 2;
const STALES: u8 = 4;
const ABSENT: u8 = 8;
const AGELESS: u8 = 16;
const EXTENDED: u8 = 32;
const VALIDATOR: u8 = 64;

impl Envelope<()> {
    /// The length of the longest payload, in bytes: 16 MiB.
    pub const MAX_PAYLOAD: usize = MAX_PAYLOAD;

    /// The first bytes of a record.
    pub const MAGIC: [u8; 3] = MAGIC;

    /// The position of the write id in a record, for stores that compare it in place.
    pub const WRITE_ID: Range<usize> = 10..18;

    /// The position of the time of writing in a record.
    pub const CREATED: Range<usize> = 18..26;

    /// The position of the time at which a record expires, in Unix milliseconds; 0 if it does not.
    pub const EXPIRES: Range<usize> = 26..34;

    /// The position of the epoch in a record of version 3.
    pub const EPOCH: Range<usize> = 34..38;

    /// Returns the tag of the schema of this name.
    pub fn schema_tag(name: &str) -> u32 {
        crc32fast::hash(name.as_bytes())
    }

    /// Returns the tag of a schema with this tag and this [shape](Codec::shape).
    pub fn shaped_tag(tag: u32, shape: Option<u32>) -> u32 {
        shape.map_or(tag, |shape| crc32fast::hash([tag.to_le_bytes(), shape.to_le_bytes()].as_flattened()))
    }

    /// Returns the marker of a lease that is taken at `created`.
    pub fn lease(binding: Binding<'_>, write_id: u64, created: u64) -> Vec<u8> {
        let mut record = header(LEASE, (0, 0), write_id, Life::new(created, None));
        bind(&mut record, binding);
        record
    }

    /// Returns the epoch that a record is bound to, `None` if the version of the record has none.
    pub fn epoch(record: &[u8]) -> Option<u32> {
        let bound = record.len() >= HEADER && record[3] == VERSION;
        bound.then(|| u32_at(record, Self::EPOCH.start))
    }
}

impl<C> Envelope<C> {
    /// Creates an envelope for values of a schema with this tag; see [`Envelope::schema_tag`].
    pub fn new(codec: C, schema: u32) -> Self {
        Self { codec, schema, namespace: None }
    }

    /// Sets the namespace of the records, for a store whose keys do not begin with it. The codec is
    /// then given the name `<namespace>:<key>`, else the key; see [`Codec::encode_for`]. The
    /// checksum of a record does not depend on it.
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Returns the name by which the codec knows the record of a key.
    fn name<'a>(&self, key: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.namespace {
            Some(namespace) => Cow::Owned([namespace.as_bytes(), b":", key].concat()),
            None => Cow::Borrowed(key),
        }
    }

    /// Returns the codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// Returns the record of `entry`, with the validator if the entry has a value. The lifetime is
    /// that of `life`, not that of the entry.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`seal`](Self::seal).
    pub fn seal_entry<V>(&self, binding: Binding<'_>, entry: &Entry<V>, life: Life, write_id: u64) -> Result<Vec<u8>>
    where
        C: Codec<V>,
    {
        let Some(value) = entry.value() else { return Ok(self.seal_absent::<V>(binding, life, write_id)) };
        self.seal_value(binding, value, entry.validator().map(|validator| &**validator), life, write_id)
    }

    /// Returns the record of `value`, without a validator.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the value cannot be encoded, or if its encoding is
    /// longer than [`Envelope::MAX_PAYLOAD`].
    pub fn seal<V>(&self, binding: Binding<'_>, value: &V, life: Life, write_id: u64) -> Result<Vec<u8>>
    where
        C: Codec<V>,
    {
        self.seal_value(binding, value, None, life, write_id)
    }

    fn seal_value<V>(
        &self,
        binding: Binding<'_>,
        value: &V,
        validator: Option<&str>,
        life: Life,
        write_id: u64,
    ) -> Result<Vec<u8>>
    where
        C: Codec<V>,
    {
        let flags = validator.map_or(0, |_| VALIDATOR);
        let mut record = header(flags, (C::ID, self.schema), write_id, life);
        if let Some(validator) = validator {
            let length = u16::try_from(validator.len()).expect("a validator has at most 1024 bytes");
            record.extend_from_slice(&length.to_le_bytes());
            record.extend_from_slice(validator.as_bytes());
        }
        let start = record.len();
        self.codec.encode_for(&self.name(binding.key), value, &mut record)?;
        if record.len() - start > Envelope::MAX_PAYLOAD {
            return Err(Error::new(
                ErrorKind::Codec,
                "the encoded value is larger than 16 MiB; cache its parts under keys of their own",
            ));
        }
        bind(&mut record, binding);
        Ok(record)
    }

    /// Returns the record of a key that has no value.
    pub fn seal_absent<V>(&self, binding: Binding<'_>, life: Life, write_id: u64) -> Vec<u8>
    where
        C: Codec<V>,
    {
        let mut record = header(ABSENT, (C::ID, self.schema), write_id, life);
        bind(&mut record, binding);
        record
    }

    /// Opens a record that was found under `key`.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the bytes are not a record of this key, codec and
    /// schema, or if the payload does not decode.
    pub fn open<V>(&self, key: &[u8], record: &[u8]) -> Result<Opened<V>>
    where
        C: Codec<V>,
    {
        match parse(key, record, C::ID, self.schema)? {
            Sealed::Lease => Ok(Opened::Lease),
            Sealed::Absent(life) => Ok(Opened::Record(Record::absent(life))),
            Sealed::Value { life, validator, payload } => {
                let record = Record::new(self.codec.decode_for(&self.name(key), payload)?, life);
                Ok(Opened::Record(record.with_validator(validator.map(Into::into))))
            }
        }
    }
}

impl<C> fmt::Debug for Envelope<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("schema", &self.schema).finish_non_exhaustive()
    }
}

fn header(mut flags: u8, (codec, schema): (u8, u32), write_id: u64, life: Life) -> Vec<u8> {
    flags |= life.expires.map_or(0, |_| EXPIRES) | life.stale.map_or(0, |_| STALES);
    flags |= life.age_millis.map_or(AGELESS, |_| 0);
    if flags & (STALES | AGELESS) != 0 || life.load_millis > 0 || life.age_millis != Some(0) {
        flags |= EXTENDED;
    }
    // Room for a small value as well.
    let mut record = Vec::with_capacity(256);
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&[VERSION, flags, codec]);
    record.extend_from_slice(&schema.to_le_bytes());
    record.extend_from_slice(&write_id.to_le_bytes());
    record.extend_from_slice(&life.created.to_le_bytes());
    record.extend_from_slice(&life.expires.unwrap_or(0).to_le_bytes());
    record.resize(HEADER, 0);
    if flags & EXTENDED != 0 {
        record.extend_from_slice(&life.stale.unwrap_or(0).to_le_bytes());
        record.extend_from_slice(&life.load_millis.to_le_bytes());
        record.extend_from_slice(&life.age_millis.unwrap_or(0).to_le_bytes());
    }
    record
}

/// Sets the epoch and the checksum.
fn bind(record: &mut [u8], binding: Binding<'_>) {
    record[Envelope::EPOCH].copy_from_slice(&binding.epoch.to_le_bytes());
    let checksum = checksum(binding.key, record);
    record[CHECKSUM..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(key: &[u8], record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&record[..CHECKSUM]);
    hasher.update(&record[HEADER..]);
    hasher.finalize()
}

fn bad<T>(message: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::Codec, message))
}

fn parse<'a>(key: &[u8], record: &'a [u8], codec: u8, schema: u32) -> Result<Sealed<'a>> {
    if record.len() < HEADER || record[..3] != MAGIC {
        return bad("the stored bytes are not a record of this cache");
    }
    let (flags, id, tag) = (record[4], record[5], u32_at(record, 6));
    let (bound, known) = match record[3] {
        1 => (false, EXPIRES),
        2 => (false, EXPIRES | STALES | ABSENT | AGELESS),
        VERSION => (true, EXPIRES | STALES | ABSENT | AGELESS | EXTENDED | VALIDATOR),
        _ => return bad("the stored record is of a format that this version does not know"),
    };
    let extended = if bound { flags & EXTENDED != 0 } else { record[3] == 2 };
    let start = if extended { HEADER + EXTENSION } else { HEADER };
    let key = if bound { key } else { &[] };
    let Some(payload) = record.get(start..).filter(|_| u32_at(record, CHECKSUM) == checksum(key, record)) else {
        return bad("the stored record was cut or changed, or belongs to another key");
    };
    if !bound && u32_at(record, 34) as usize != payload.len() {
        return bad("the stored record was cut or changed");
    }
    if record[3] != 2 && (flags, id, tag) == (LEASE, 0, 0) && payload.is_empty() && u64_at(record, 26) == 0 {
        return Ok(Sealed::Lease);
    }
    let mut life = Life::new(u64_at(record, 18), (flags & EXPIRES != 0).then(|| u64_at(record, 26)));
    let mut unused = life.expires.is_none() && u64_at(record, 26) != 0;
    if extended {
        life.stale = (flags & STALES != 0).then(|| u64_at(record, 42));
        life.load_millis = u32_at(record, 50);
        life.age_millis = (flags & AGELESS == 0).then(|| u32_at(record, 54));
        unused |= life.stale.is_none() && u64_at(record, 42) != 0;
        unused |= life.age_millis.is_none() && u32_at(record, 54) != 0;
    } else {
        unused |= flags & (STALES | AGELESS) != 0;
    }
    unused |= flags & ABSENT != 0 && flags & VALIDATOR != 0;
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
        false if flags & VALIDATOR == 0 => Ok(Sealed::Value { life, validator: None, payload }),
        false => match split_validator(payload) {
            Some((validator, payload)) => Ok(Sealed::Value { life, validator: Some(validator), payload }),
            None => bad("the validator in the stored record is invalid"),
        },
    }
}

/// Splits the validator off the bytes after the header. Returns `None` if it is no validator.
fn split_validator(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (validator, payload) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    let fits = (1..=Entry::MAX_VALIDATOR).contains(&validator.len());
    Some((std::str::from_utf8(validator).ok().filter(|_| fits)?, payload))
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"))
}
