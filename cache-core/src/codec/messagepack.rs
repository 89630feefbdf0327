use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, cannot_decode, cannot_encode, trailing_bytes};
use crate::Result;

/// [MessagePack](https://docs.rs/rmp-serde/1), with the names of fields, so that fields may be
/// added with a default.
///
/// `Some(None)` decodes as `None`: the format has but one `nil`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePack;

// The hint of `Codec` says what is missing, and more than serde can.
#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned> Codec<V> for MessagePack {
    const ID: u8 = 4;

    fn encode(&self, value: &V, mut out: &mut Vec<u8>) -> Result<()> {
        rmp_serde::encode::write_named(&mut out, value).map_err(cannot_encode)
    }

    fn decode(&self, bytes: &[u8]) -> Result<V> {
        let mut decoder = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
        let value = V::deserialize(&mut decoder).map_err(|_| cannot_decode())?;
        if decoder.position() == bytes.len() as u64 { Ok(value) } else { Err(trailing_bytes()) }
    }
}
