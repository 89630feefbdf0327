//! Codecs: how stores that keep bytes turn values into them and back.
//!
//! | codec | feature | id | choose it for |
//! |---|---|---|---|
//! | `Bincode` | `bincode` | 1 | the default: compact, fast, any serde type that is not self-describing |
//! | `Postcard` | `postcard` | 2 | smaller still, and maintained; any serde type that is not self-describing |
//! | `Json` | `json` | 3 | values that others read, recursive types, `#[serde(flatten)]`, untagged enums |
//! | `MessagePack` | `messagepack` | 4 | compact and self-describing |
//!
//! The id stands in the [`Envelope`](crate::backend::Envelope), so a switch of codecs reads old
//! records as errors of kind `Codec` (in a chain: as misses), never as other values.
//!
//! # Changed types
//!
//! `Bincode` and `Postcard` write neither names nor types of fields. [`Codec::shape`] tells a type
//! from what it was before a field was swapped, renamed or retyped; stores put it into the tag of
//! each record.
//!
//! # What decoding may cost
//!
//! A *length that lies* is not believed. At any time, decoding has allocated no more than
//!
//! - twice the input and 1 MiB,
//! - 4 MiB for each collection that encloses what is being read, itself included: serde reserves up
//!   to 1 MiB ahead for each, and a hash table rounds that up, and
//! - what the elements that were really there take in memory, three times that while a vector
//!   grows. An empty `String` is one byte in a record of `Postcard` and 24 in memory, so the
//!   element type says what 16 MiB of input may become.
//!
//! `Json` adds up to 18 times the length of a string that stands where another type should: serde
//! puts it into the error.
//!
//! Three things are *not* bounded; mind them if you do not trust who writes to the store:
//!
//! - Depth, except in JSON: a recursive type such as a tree overflows the stack on a few kilobytes.
//!   Use `Json`.
//! - The count of elements that have no bytes, in `Bincode` and `Postcard`: `Vec<()>`, or a `Vec`
//!   of a struct whose fields are all skipped, has nothing but its length, so a record that claims
//!   2^63 of them is decoded for as long as that takes, and into as much memory as they have. Use
//!   `Json` or `MessagePack`, or store the count.
//! - What your own `Deserialize` does.

#[cfg(feature = "bincode")]
mod bincode;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "messagepack")]
mod messagepack;
#[cfg(feature = "postcard")]
mod postcard;
#[cfg(any(feature = "bincode", feature = "postcard"))]
mod shape;

#[cfg(feature = "bincode")]
pub use self::bincode::Bincode;
#[cfg(feature = "json")]
pub use self::json::Json;
#[cfg(feature = "messagepack")]
pub use self::messagepack::MessagePack;
#[cfg(feature = "postcard")]
pub use self::postcard::Postcard;

use crate::Result;
#[cfg(any(feature = "bincode", feature = "json", feature = "messagepack", feature = "postcard"))]
use crate::{Error, ErrorKind};

/// The most bytes of an encoded value: 16 MiB.
pub(crate) const MAX_PAYLOAD: usize = 16 << 20;

/// Turns values into bytes and back.
///
/// `decode(encode(v))` is `v`, and `decode` reports every input that is no encoding as an error of
/// kind [`Codec`](crate::ErrorKind::Codec): it must not panic, must not allocate out of proportion
/// to the input, and must check that it consumed every byte.
#[diagnostic::on_unimplemented(
    message = "the codec `{Self}` cannot encode and decode `{V}`",
    label = "`{V}` has no encoding",
    note = "for a type of your own, derive `Serialize` and `Deserialize`",
    note = "for `Arc<T>` and `Rc<T>`, enable the feature `rc` of serde",
    note = "for a type of another crate, look for its feature `serde`",
    note = "if the codec is `()`, choose one with `.codec(…)`, or enable the feature `bincode`"
)]
pub trait Codec<V>: Send + Sync + 'static {
    /// Distinguishes the records of this codec from those of others. Ids below 128 belong to this
    /// crate; other crates use ids from 128 on.
    const ID: u8;

    /// Appends the encoded value to `out`.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the value has no encoding.
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()>;

    /// The value that `bytes` encode, all of them.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if they do not.
    fn decode(&self, bytes: &[u8]) -> Result<V>;

    /// Returns a hash of the names and types that `V` consists of, if its encoding depends on them
    /// without naming them.
    ///
    /// Stores put it into the tag of each record, with the name of the schema, so that a record of
    /// another shape is an error of kind `Codec` and not another value. By default there is none: a
    /// format that names the fields tells them apart itself, and may accept records from before a
    /// field was added.
    fn shape(&self) -> Option<u32> {
        None
    }
}

#[cfg(any(feature = "bincode", feature = "json", feature = "messagepack", feature = "postcard"))]
fn cannot_encode(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Codec, "the value cannot be encoded", source)
}

/// The source is not kept: decoders quote their input, and a value must not show up in a log.
#[cfg(any(feature = "bincode", feature = "json", feature = "messagepack", feature = "postcard"))]
fn cannot_decode() -> Error {
    Error::new(ErrorKind::Codec, "the stored bytes do not decode as this type")
}

#[cfg(any(feature = "bincode", feature = "postcard", feature = "messagepack"))]
fn trailing_bytes() -> Error {
    Error::new(ErrorKind::Codec, "the stored bytes go on after the value")
}

#[cfg(all(test, feature = "bincode", feature = "postcard", feature = "json", feature = "messagepack"))]
mod tests;
