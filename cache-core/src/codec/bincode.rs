use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, MAX_PAYLOAD, cannot_decode, cannot_encode, shape::shape_of, trailing_bytes};
use crate::{Error, ErrorKind, Result};

/// [bincode](https://docs.rs/bincode/2) 2, little-endian, integers of fixed width.
///
/// Fixed width is what makes decoding safe: bincode allocates what a length says before it reads,
/// up to a limit that is counted in decoded bytes, and only with fixed widths no value decodes to
/// more bytes than its encoding has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bincode;

// The hint of `Codec` says what is missing, and more than serde can.
#[diagnostic::do_not_recommend]
impl<V: Serialize + DeserializeOwned> Codec<V> for Bincode {
    const ID: u8 = 1;

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()> {
        let config = bincode::config::legacy();
        let bytes = bincode::serde::encode_to_vec(value, config).map_err(cannot_encode)?;
        if bytes.len() > MAX_PAYLOAD {
            // `decode` would refuse it.
            return Err(Error::new(ErrorKind::Codec, "the encoded value is larger than 16 MiB"));
        }
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<V> {
        // The limit is a constant of the type; take the least that fits.
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
