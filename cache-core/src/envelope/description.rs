//! What a record says about itself.

use super::{Envelope, HEADER, Sealed, bad, parse, u32_at, u64_at};
use crate::{Result, backend::write_id, life::Life};

/// What a record says about itself, without its value. From [`Envelope::describe`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Description {
    /// What the record stands for.
    pub content: Content,
    /// The version of the format.
    pub version: u8,
    /// The id of the codec, see [`codec`](crate::codec); 0 in a marker.
    pub codec: u8,
    /// The tag of the schema, see [`Envelope::schema_tag`]; 0 in a marker.
    pub schema: u32,
    /// The id of the write.
    pub write_id: u64,
    /// The times of the record, by the clock of the store.
    pub life: Life,
    /// The number of the run of the server in which the record was written, 0 if the store has none.
    /// `None` in the versions before 3.
    pub epoch: Option<u32>,
    /// The validator of the value, such as an `ETag` of HTTP.
    pub validator: Option<String>,
    /// The bytes of the encoded value.
    pub payload: usize,
}

/// What a record stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Content {
    /// A value.
    Value,
    /// The fact that there is no value, from a loader that has found none.
    Absence,
    /// A lease: a process has read the key, and found nothing.
    Lease,
    /// A claim: a process is loading the value.
    Claim,
}

impl Description {
    /// Describes the marker of a lease or a claim, for stores whose markers are no records.
    pub fn of_marker(write_id: u64, life: Life) -> Self {
        let content = if write_id::is_claim(write_id) { Content::Claim } else { Content::Lease };
        Self {
            content,
            version: super::VERSION,
            codec: 0,
            schema: 0,
            write_id,
            life,
            epoch: None,
            validator: None,
            payload: 0,
        }
    }
}

impl Envelope<()> {
    /// Describes a record of any codec and schema that was found under `key`.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the bytes are not a record of this key.
    pub fn describe(key: &[u8], record: &[u8]) -> Result<Description> {
        if record.len() < HEADER {
            return bad("the stored bytes are not a record of this cache");
        }
        let (codec, schema) = (record[5], u32_at(record, 6));
        let (content, life, validator, payload) = match parse(key, record, codec, schema)? {
            Sealed::Lease => {
                let marker = Description::of_marker(u64_at(record, 10), Life::new(u64_at(record, 18), None));
                return Ok(Description { version: record[3], epoch: Self::epoch(record), ..marker });
            }
            Sealed::Absent(life) => (Content::Absence, life, None, 0),
            Sealed::Value { life, validator, payload } => (Content::Value, life, validator, payload.len()),
        };
        Ok(Description {
            content,
            version: record[3],
            codec,
            schema,
            write_id: u64_at(record, 10),
            life,
            epoch: Self::epoch(record),
            validator: validator.map(str::to_owned),
            payload,
        })
    }
}
