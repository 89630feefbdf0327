use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, cannot_decode, cannot_encode, trailing_bytes};
use crate::Result;

/// [MessagePack](https://docs.rs/rmp-serde/1), with the names of fields, so that fields with a default
/// may be added.
///
/// `Some(None)` decodes as `None`, because the format has only one `nil`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePack;

// The compiler shows the hint of `Codec` instead, which names what is missing.
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
