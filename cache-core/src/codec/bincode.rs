use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, MAX_PAYLOAD, cannot_decode, cannot_encode, shape::shape_of, trailing_bytes};
use crate::{Error, ErrorKind, Result};

/// [bincode](https://docs.rs/bincode/2) 2, little-endian, integers of fixed width.
///
/// Integers have a fixed width so that decoding is safe. Bincode allocates for a length before it
/// reads the elements, up to a limit that counts decoded bytes. Only with fixed widths, no value
/// decodes to more bytes than its encoding has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bincode;

// The compiler shows the hint of `Codec` instead, which names what is missing.
#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned> Codec<V> for Bincode {
    const ID: u8 = 1;

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()> {
        let config = bincode::config::legacy();
        let bytes = bincode::serde::encode_to_vec(value, config).map_err(cannot_encode)?;
        if bytes.len() > MAX_PAYLOAD {
            // `decode` would reject it.
            return Err(Error::new(ErrorKind::Codec, "the encoded value is larger than 16 MiB"));
        }
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<V> {
        // The limit is a constant of the type, so the least one that fits is chosen here.
        match bytes.len().div_ceil(MIB) {
            0..=1 => decode::<V, { MIB }>(bytes),
            2 => decode::<V, { 2 * MIB }>(bytes),
            3..=4 => decode::<V, { 4 * MIB }>(bytes),
            5..=8 => decode::<V, { 8 * MIB }>(bytes),
            9..=16 => decode::<V, MAX_PAYLOAD>(bytes),
            _ => Err(Error::new(ErrorKind::Codec, "the stored bytes are more than 16 MiB")),
        }
    }

    fn shape(&self) -> Option<u32> {
        Some(shape_of::<V>())
    }
}

const MIB: usize = 1 << 20;

fn decode<V: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<V> {
    let config = bincode::config::legacy().with_limit::<LIMIT>();
    let (value, read) = bincode::serde::decode_from_slice(bytes, config).map_err(|_| cannot_decode())?;
    if read == bytes.len() { Ok(value) } else { Err(trailing_bytes()) }
}
