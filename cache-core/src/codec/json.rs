use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, cannot_decode, cannot_encode};
use crate::Result;

/// [JSON](https://docs.rs/serde_json/1), for values that other programs read. Nesting is limited to
/// 128 levels.
///
/// JSON cannot represent some values: NaN and the infinities are written as `null` and do not
/// decode as a float; `Some(None)` decodes as `None`; a map needs keys that are strings or numbers.
/// White space after the value is ignored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

// The compiler shows the hint of `Codec` instead, which names what is missing.
#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned> Codec<V> for Json {
    const ID: u8 = 3;

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(out, value).map_err(cannot_encode)
    }

    fn decode(&self, bytes: &[u8]) -> Result<V> {
        serde_json::from_slice(bytes).map_err(|_| cannot_decode())
    }
}
