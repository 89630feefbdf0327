//! Codecs, by which stores that keep bytes convert values into bytes and back.
//!
//! | codec | feature | id | choose it for |
//! |---|---|---|---|
//! | `Bincode` | `bincode` | 1 | the default: compact, fast, any serde type that is not self-describing |
//! | `Postcard` | `postcard` | 2 | smaller still, and maintained; any serde type that is not self-describing |
//! | `Json` | `json` | 3 | values that others read, recursive types, `#[serde(flatten)]`, untagged enums |
//! | `MessagePack` | `messagepack` | 4 | compact and self-describing |
//!
//! Two codecs wrap another one:
//!
//! | codec | feature | id | choose it for |
//! |---|---|---|---|
//! | `Compressed` | `zstd` | 5 | large values: less memory in the store, less to transfer |
//! | `Encrypted` | `encryption` | 6 | values that others with access to the store must neither read nor forge |
//!
//! They can be combined as `Encrypted::new(Compressed::new(Json), keys)`, but not in the other order,
//! because encrypted bytes do not shrink.
//!
//! The [`Envelope`](crate::backend::Envelope) stores the id. So after a change of the codec, old
//! records are errors of kind `Codec` (in a chain: misses), never other values.
//!
//! # Changed types
//!
//! `Bincode` and `Postcard` write neither names nor types of fields. [`Codec::shape`] differs when
//! a field of the type was swapped, renamed or retyped; stores put it into the tag of each record.
//!
//! # Memory of a decoder
//!
//! A record that claims to hold more elements than it has bytes for does not make a decoder
//! allocate for them. At any time, a decoder has allocated at most the sum of
//!
//! - twice the input and 1 MiB,
//! - 4 MiB for each collection that is being read, with those around it: serde reserves up to 1 MiB
//!   ahead for each, and a hash table rounds that up, and
//! - the memory of the elements that were read, three times that while a vector grows. An empty
//!   `String` is one byte in a record of `Postcard` and 24 in memory, so the element type
//!   determines how much memory 16 MiB of input may take.
//!
//! `Json` adds up to 18 times the length of a string that was found in place of another type,
//! because serde puts the string into the error.
//!
//! `Compressed` adds the decompressed bytes, at most 16 MiB, and 100 KiB for the decompressor.
//! For the codec in it, the input is what was decompressed. `Encrypted` adds one copy of the input.
//!
//! Three things are *not* bounded. Mind them if you do not trust the writers of the store:
//!
//! - Depth, except in JSON: a recursive type such as a tree overflows the stack on a few kilobytes.
//!   Use `Json`.
//! - The number of elements without bytes, in `Bincode` and `Postcard`. A `Vec<()>`, or a `Vec` of
//!   a struct whose fields are all skipped, is encoded as its length alone. So a record that claims
//!   2^63 elements is decoded for as long as that takes, and into as much memory as they need. Use
//!   `Json` or `MessagePack`, or store the count.
//! - The work of your own `Deserialize`.

#[cfg(feature = "bincode")]
mod bincode;
#[cfg(feature = "zstd")]
mod compressed;
#[cfg(feature = "encryption")]
mod encrypted;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "messagepack")]
mod messagepack;
#[cfg(feature = "postcard")]
mod postcard;
#[cfg(all(test, any(feature = "encryption", feature = "zstd")))]
mod raw;
#[cfg(any(feature = "bincode", feature = "postcard"))]
mod shape;

#[cfg(feature = "bincode")]
pub use self::bincode::Bincode;
#[cfg(feature = "zstd")]
pub use self::compressed::Compressed;
#[cfg(feature = "encryption")]
pub use self::encrypted::{Encrypted, EncryptionKey, KeyRing};
#[cfg(feature = "json")]
pub use self::json::Json;
#[cfg(feature = "messagepack")]
pub use self::messagepack::MessagePack;
#[cfg(feature = "postcard")]
pub use self::postcard::Postcard;

use crate::Result;
#[cfg(any(
    feature = "bincode",
    feature = "encryption",
    feature = "json",
    feature = "messagepack",
    feature = "postcard",
    feature = "zstd"
))]
use crate::{Error, ErrorKind};

/// Returns the name of a codec of this crate, `None` for those of other crates.
pub fn name_of(id: u8) -> Option<&'static str> {
    const NAMES: [&str; 6] = ["bincode", "postcard", "json", "messagepack", "zstd", "encrypted"];
    NAMES.get(usize::from(id).checked_sub(1)?).copied()
}

/// The length of the longest encoded value, in bytes: 16 MiB.
pub(crate) const MAX_PAYLOAD: usize = 16 << 20;

/// Converts values into bytes and back.
///
/// `decode(encode(v))` is `v`, and so is `decode_for(name, encode_for(name, v))`. `decode` returns an error of kind
/// [`Codec`](crate::ErrorKind::Codec) for every input that is not an encoding. It must not panic,
/// must not allocate out of proportion to the input, and must check that it consumed every byte.
///
/// # Examples
///
/// A codec that stores text unchanged. A store takes it with `.codec(Utf8)`:
///
/// ```
/// use cache_core::{Codec, Error, ErrorKind, Result};
///
/// struct Utf8;
///
/// impl Codec<String> for Utf8 {
///     const ID: u8 = 128;
///
///     fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<()> {
///         out.extend_from_slice(value.as_bytes());
///         Ok(())
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<String> {
///         let text = str::from_utf8(bytes);
///         text.map(str::to_owned).map_err(|_| Error::new(ErrorKind::Codec, "the stored bytes are not text"))
///     }
/// }
///
/// fn main() -> Result<()> {
///     let mut bytes = Vec::new();
///     Utf8.encode(&"Ada".to_owned(), &mut bytes)?;
///     assert_eq!(Utf8.decode(&bytes)?, "Ada");
///     assert_eq!(Utf8.decode(b"\xff").unwrap_err().kind(), ErrorKind::Codec);
///     Ok(())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the codec `{Self}` cannot encode and decode `{V}`",
    label = "`{V}` has no encoding",
    note = "for a type of your own, derive `Serialize` and `Deserialize`",
    note = "for `Arc<T>` and `Rc<T>`, enable the feature `rc` of serde",
    note = "for a type of another crate, look for its feature `serde`",
    note = "if the codec is `()`, choose one with `.codec(…)`, or enable the feature `bincode`"
)]
pub trait Codec<V>: Send + Sync + 'static {
    /// The id in the records of this codec. Ids below 128 are reserved for this crate; other crates
    /// use ids from 128 on.
    const ID: u8;

    /// Appends the encoded value to `out`.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the value has no encoding.
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()>;

    /// Decodes the value from all of `bytes`.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the bytes are not the encoding of a value.
    fn decode(&self, bytes: &[u8]) -> Result<V>;

    /// Appends the encoded value to `out`, for a record of this name.
    ///
    /// The name is the key under which the store keeps the record, with its namespace: `users:42`.
    /// Stores call this method and [`decode_for`](Self::decode_for), each with the same name.
    /// Default: calls [`encode`](Self::encode). Override both if the encoding depends on the name, as
    /// that of `Encrypted` does. A codec that wraps another one passes the name on to it.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the value has no encoding.
    fn encode_for(&self, name: &[u8], value: &V, out: &mut Vec<u8>) -> Result<()> {
        let _ = name;
        self.encode(value, out)
    }

    /// Decodes the value from all of `bytes`, which were found in the record of this name.
    ///
    /// Default: calls [`decode`](Self::decode).
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Codec` if the bytes are not the encoding of a value for this name.
    fn decode_for(&self, name: &[u8], bytes: &[u8]) -> Result<V> {
        let _ = name;
        self.decode(bytes)
    }

    /// Returns a hash of the names and types that `V` consists of, if its encoding depends on them
    /// without naming them.
    ///
    /// Stores put it into the tag of each record, with the name of the schema, so that a record of
    /// another shape is an error of kind `Codec` and not another value. Default: `None`. A format
    /// that writes the names of the fields needs no shape, and may accept records from before a
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

/// The error of a wrapper whose payload was written by another codec inside of it.
#[cfg(any(feature = "encryption", feature = "zstd"))]
fn another_codec() -> Error {
    Error::new(ErrorKind::Codec, "the stored value was written with another inner codec")
}

#[cfg(any(feature = "bincode", feature = "postcard", feature = "messagepack"))]
fn trailing_bytes() -> Error {
    Error::new(ErrorKind::Codec, "the stored bytes go on after the value")
}

#[cfg(all(test, feature = "bincode", feature = "postcard", feature = "json", feature = "messagepack"))]
mod tests;
