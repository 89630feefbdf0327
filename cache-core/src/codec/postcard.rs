use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, cannot_decode, cannot_encode, shape::shape_of, trailing_bytes};
use crate::Result;

/// [postcard](https://docs.rs/postcard/1), a small and stable format.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postcard;

// The compiler shows the hint of `Codec` instead, which names what is missing.
#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned> Codec<V> for Postcard {
    const ID: u8 = 2;

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()> {
        *out = postcard::to_extend(value, std::mem::take(out)).map_err(cannot_encode)?;
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<V> {
        let (value, rest) = postcard::take_from_bytes(bytes).map_err(|_| cannot_decode())?;
        if rest.is_empty() { Ok(value) } else { Err(trailing_bytes()) }
    }

    fn shape(&self) -> Option<u32> {
        Some(shape_of::<V>())
    }
}
