//! Codecs for the tests of the codecs that wrap another one.

use super::Codec;
use crate::{Error, ErrorKind, Result};

/// Writes bytes unchanged. Codecs of other ids are the same otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Raw<const ID: u8 = 200>;

impl<const ID: u8> Codec<Vec<u8>> for Raw<ID> {
    const ID: u8 = ID;

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }

    fn shape(&self) -> Option<u32> {
        Some(ID.into())
    }
}

/// Writes nothing but the name of the record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NameOnly;

impl Codec<()> for NameOnly {
    const ID: u8 = 202;

    fn encode(&self, value: &(), out: &mut Vec<u8>) -> Result<()> {
        self.encode_for(b"no name", value, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<()> {
        self.decode_for(b"no name", bytes)
    }

    fn encode_for(&self, name: &[u8], (): &(), out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(name);
        Ok(())
    }

    fn decode_for(&self, name: &[u8], bytes: &[u8]) -> Result<()> {
        if name == bytes { Ok(()) } else { Err(Error::new(ErrorKind::Codec, "another name")) }
    }
}

/// Encodes no value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refuses;

impl Codec<Vec<u8>> for Refuses {
    const ID: u8 = 203;

    fn encode(&self, _: &Vec<u8>, _: &mut Vec<u8>) -> Result<()> {
        Err(Error::new(ErrorKind::Codec, "no encoding"))
    }

    fn decode(&self, _: &[u8]) -> Result<Vec<u8>> {
        Err(Error::new(ErrorKind::Codec, "no decoding"))
    }
}

/// Encodes the value for the name, behind bytes that must stay.
pub(super) fn encode<V, C: Codec<V>>(codec: &C, name: &[u8], value: &V) -> Vec<u8> {
    let mut bytes = b"what was there".to_vec();
    codec.encode_for(name, value, &mut bytes).unwrap();
    bytes.strip_prefix(b"what was there").expect("encode appends").to_vec()
}

/// Returns the message of the refusal, which is of kind `Codec`.
pub(super) fn refusal<V>(decoded: Result<V>) -> String {
    let Err(error) = decoded else { panic!("bytes decode that are no encoding") };
    assert_eq!(error.kind(), ErrorKind::Codec);
    error.to_string()
}
