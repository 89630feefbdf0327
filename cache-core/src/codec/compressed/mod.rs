use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::{find_frame_compressed_size, get_frame_content_size},
};

use super::{Codec, MAX_PAYLOAD, another_codec};
use crate::{Error, ErrorKind, Result};

/// Another codec, whose larger payloads are compressed by [zstd](https://docs.rs/zstd/0.13).
///
/// A payload of at least [`threshold`](Self::threshold) bytes is compressed if that makes it shorter.
/// All others are stored as they are. The feature `zstd` builds the C library of zstd, which needs a C
/// compiler.
///
/// Lengths of compressed values reveal something of their content: see `Encrypted`.
///
/// # Format
///
/// | bytes | what |
/// |---|---|
/// | 0 | form: 0 as it is, 1 compressed |
/// | 1 | the id of the inner codec |
/// | 2.. | the payload of the inner codec; or one frame of zstd that states its decompressed size |
///
/// A payload of another inner codec is an error of kind [`Codec`](ErrorKind::Codec). The threshold and
/// the level may be changed at any time, because only the encoder uses them.
///
/// # Limits
///
/// The inner codec may write at most 16 MiB; a longer payload is an error of kind `Codec`, even if it
/// would be short after compression. A frame may decompress to at most 16 MiB. The decoder checks the
/// size that the frame states, allocates it, and writes nothing beyond it. So a small record may take
/// 16 MiB of memory while it is decoded, but not more.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "json")]
/// # fn main() -> cache_core::Result<()> {
/// use cache_core::{
///     Codec,
///     codec::{Compressed, Json},
/// };
///
/// // A store takes it with `.codec(codec)`.
/// let codec = Compressed::new(Json).threshold(512).level(5);
/// let text = "to be or not to be ".repeat(1000);
/// let mut bytes = Vec::new();
/// codec.encode(&text, &mut bytes)?;
/// assert!(bytes.len() < 100);
/// let decoded: String = codec.decode(&bytes)?;
/// assert_eq!(decoded, text);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "json"))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Compressed<C> {
    inner: C,
    threshold: usize,
    level: i32,
}

/// The forms of a payload.
const AS_IT_IS: u8 = 0;
const FRAME: u8 = 1;
/// The number of bytes before the payload of the inner codec.
const HEADER: usize = 2;
/// The first bytes of a frame. Frames of versions before 0.8 and frames to be skipped begin with
/// others.
const FRAME_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

impl<C> Compressed<C> {
    /// Wraps a codec.
    pub fn new(inner: C) -> Self {
        Self { inner, threshold: 1024, level: 3 }
    }

    /// Sets the length in bytes from which on a payload is compressed. Default: 1 KiB. For shorter
    /// payloads, compression saves little.
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Sets the level of compression, up to 22. Higher levels are slower and compress better; negative
    /// levels are the fastest. Default: 3, as in zstd, which is also the meaning of 0. A level out of
    /// range counts as the nearest one. Above level 19, compressing a large payload takes more than
    /// 100 MiB of memory.
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }
}

impl<C: Default> Default for Compressed<C> {
    fn default() -> Self {
        Self::new(C::default())
    }
}

// The compiler shows the hint of `Codec` instead, which names what is missing.
#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods)]
impl<V, C: Codec<V>> Codec<V> for Compressed<C> {
    const ID: u8 = 5;

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()> {
        self.encode_by(out, |out| self.inner.encode(value, out))
    }

    fn decode(&self, bytes: &[u8]) -> Result<V> {
        Self::decode_by(bytes, |payload| self.inner.decode(payload))
    }

    fn encode_for(&self, name: &[u8], value: &V, out: &mut Vec<u8>) -> Result<()> {
        self.encode_by(out, |out| self.inner.encode_for(name, value, out))
    }

    fn decode_for(&self, name: &[u8], bytes: &[u8]) -> Result<V> {
        Self::decode_by(bytes, |payload| self.inner.decode_for(name, payload))
    }

    fn shape(&self) -> Option<u32> {
        self.inner.shape()
    }
}

impl<C> Compressed<C> {
    /// Appends what the inner codec writes.
    fn encode_by<V>(&self, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()>
    where
        C: Codec<V>,
    {
        let start = out.len();
        out.extend_from_slice(&[AS_IT_IS, C::ID]);
        encode(out)?;
        let payload = &out[start + HEADER..];
        if payload.len() > MAX_PAYLOAD {
            // `decode` would reject it.
            return Err(Error::new(ErrorKind::Codec, "the encoded value is larger than 16 MiB before compression"));
        }
        if payload.len() >= self.threshold
            && let Some(frame) = compress(payload, self.level)
        {
            out[start] = FRAME;
            out.truncate(start + HEADER);
            out.extend_from_slice(&frame);
        }
        Ok(())
    }

    /// Returns what the inner codec decodes from its payload.
    fn decode_by<V>(bytes: &[u8], decode: impl FnOnce(&[u8]) -> Result<V>) -> Result<V>
    where
        C: Codec<V>,
    {
        match bytes {
            [AS_IT_IS | FRAME, id, ..] if *id != C::ID => Err(another_codec()),
            [AS_IT_IS, _, payload @ ..] => decode(payload),
            [FRAME, _, frame @ ..] => decode(&decompress(frame)?),
            _ => bad("the stored bytes are not of the format of `Compressed`"),
        }
    }
}

/// Returns the payload as a frame, or `None` if that does not make it shorter.
fn compress(payload: &[u8], level: i32) -> Option<Vec<u8>> {
    let mut compressor = Compressor::new(level).ok()?;
    // zstd gives up where there is no room.
    let mut frame = Vec::with_capacity(payload.len().saturating_sub(1));
    compressor.compress_to_buffer(payload, &mut frame).ok()?;
    Some(frame)
}

fn decompress(frame: &[u8]) -> Result<Vec<u8>> {
    // zstd itself skips frames of some kinds, and decodes several frames one after the other.
    if !frame.starts_with(&FRAME_MAGIC) || find_frame_compressed_size(frame) != Ok(frame.len()) {
        return bad("the compressed value was cut, changed or extended");
    }
    let Ok(Some(size)) = get_frame_content_size(frame) else {
        return bad("the compressed value does not state its decompressed size");
    };
    let Some(size) = usize::try_from(size).ok().filter(|size| *size <= MAX_PAYLOAD) else {
        return bad("the compressed value decompresses to more than 16 MiB");
    };
    // zstd decodes into this buffer in one step, and never beyond its capacity. So it needs no window
    // of the size that the frame asks for.
    let mut payload = Vec::with_capacity(size);
    let decompressed = Decompressor::default().decompress_to_buffer(frame, &mut payload);
    decompressed.map_err(|_| Error::new(ErrorKind::Codec, "the compressed value does not decompress"))?;
    Ok(payload)
}

fn bad<T>(message: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::Codec, message))
}

#[cfg(test)]
mod tests;
