//! The form of payloads, and frames that the encoder does not write.

use std::io::Write as _;

use proptest::{collection::vec, prelude::*};

use super::super::raw::{NameOnly, Raw, Refuses, encode, refusal};
use super::{AS_IT_IS, Codec, Compressed, FRAME, FRAME_MAGIC, HEADER, MAX_PAYLOAD};
use crate::{
    ErrorKind, Result,
    backend::{Binding, Envelope, Life},
};

const DEFAULT: Compressed<Raw> = Compressed { inner: Raw, threshold: 1024, level: 3 };
const KIB_128: usize = 128 << 10;
const NOT_ONE_FRAME: &str = "the compressed value was cut, changed or extended";
const NO_SIZE: &str = "the compressed value does not state its decompressed size";
const TOO_LARGE: &str = "the compressed value decompresses to more than 16 MiB";
const INVALID: &str = "the compressed value does not decompress";

/// Bytes that do not shrink.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(byte).collect()
}

fn decode_frame(frame: &[u8]) -> Result<Vec<u8>> {
    DEFAULT.decode(&[&[FRAME, 200], frame].concat())
}

/// A frame that states this decompressed size, and has so many blocks of 128 KiB of zeros.
fn zeros(stated: usize, blocks: usize) -> Vec<u8> {
    // One segment, so that there is no window; a size of 8 bytes.
    let mut frame = [&FRAME_MAGIC[..], &[0xE0], &(stated as u64).to_le_bytes()].concat();
    for block in 1..=blocks {
        let is_last = u32::from(block == blocks);
        // Type 1: one byte, repeated.
        let header = u32::try_from(KIB_128 << 3).unwrap() | 1 << 1 | is_last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

proptest! {
    #[test]
    fn bytes_of_any_size_round_trip(
        random in vec(any::<u8>(), 0..600), repeated in 1_usize..6, threshold in 0_usize..1500, level in -5..20_i32,
    ) {
        let value = random.repeat(repeated);
        let codec = Compressed::new(Raw::<200>).threshold(threshold).level(level);
        let bytes = encode(&codec, b"name", &value);
        prop_assert!(bytes.len() <= value.len() + HEADER);
        prop_assert!(value.len() >= threshold || bytes[0] == AS_IT_IS);
        prop_assert_eq!(&codec.decode_for(b"name", &bytes).unwrap(), &value);
        let mut plain = Vec::new();
        codec.encode(&value, &mut plain).unwrap();
        prop_assert_eq!(&plain, &bytes, "the name changes nothing");
        prop_assert_eq!(&DEFAULT.decode(&bytes).unwrap(), &value, "neither do the settings");
    }

    #[test]
    fn random_bytes_are_survived(bytes in vec(any::<u8>(), 0..300)) {
        for decoded in [DEFAULT.decode(&bytes), decode_frame(&bytes), decode_frame(&[&FRAME_MAGIC, &bytes[..]].concat())] {
            if let Err(error) = decoded {
                prop_assert_eq!(error.kind(), ErrorKind::Codec);
            }
        }
    }

    #[test]
    fn frames_of_random_headers_are_survived(descriptor: u8, header in vec(any::<u8>(), 0..14), blocks in 0_usize..3) {
        let blocks = &zeros(0, blocks)[13..];
        if let Err(error) = decode_frame(&[&FRAME_MAGIC, &[descriptor][..], &header, blocks].concat()) {
            prop_assert_eq!(error.kind(), ErrorKind::Codec);
        }
    }
}

#[test]
fn payloads_from_the_threshold_on_are_compressed() {
    assert_eq!(encode(&DEFAULT, b"", &vec![7; 1023])[..2], [AS_IT_IS, 200]);
    assert_eq!(encode(&DEFAULT, b"", &vec![7; 1024])[..2], [FRAME, 200]);
    assert_eq!(encode(&DEFAULT.threshold(100), b"", &vec![7; 99])[..2], [AS_IT_IS, 200]);
    assert_eq!(encode(&DEFAULT.threshold(100), b"", &vec![7; 100])[..2], [FRAME, 200]);
    assert_eq!(encode(&DEFAULT, b"", &Vec::new()), [AS_IT_IS, 200]);
    assert_eq!(encode(&DEFAULT.threshold(0), b"", &Vec::new()), [AS_IT_IS, 200], "a frame is longer");
    assert_eq!(encode(&Compressed::<Raw>::default(), b"", &vec![7; 1023])[0], AS_IT_IS);
    assert_eq!(encode(&Compressed::<Raw>::default(), b"", &vec![7; 1024])[0], FRAME);
    assert!(encode(&DEFAULT, b"", &vec![7; 100_000]).len() < 50);
}

#[test]
fn a_payload_that_does_not_shrink_stays_as_it_is() {
    let value = noise(5000);
    assert_eq!(encode(&DEFAULT, b"", &value), [&[AS_IT_IS, 200], &value[..]].concat());
    // From a frame that is longer over one of the same length to one that is shorter.
    let mut forms = Vec::new();
    for zeros in 0..40 {
        let value = [noise(50), vec![0; zeros]].concat();
        let bytes = encode(&DEFAULT.threshold(0), b"", &value);
        assert_eq!(bytes[0] == FRAME, bytes.len() < value.len() + HEADER);
        forms.push(bytes[0]);
    }
    assert!(forms.is_sorted() && forms[0] == AS_IT_IS && forms[39] == FRAME, "{forms:?}");
}

#[test]
fn the_level_changes_the_frame() {
    let text: Vec<u8> = (0..20_000_u32).flat_map(|n| (n * n % 1009).to_string().into_bytes()).collect();
    let lengths = [-7, 3, 19].map(|level| encode(&DEFAULT.level(level), b"", &text).len());
    assert!(lengths[0] > lengths[1] && lengths[1] > lengths[2], "{lengths:?}");
    for (level, nearest) in [(i32::MIN, i32::MIN + 1), (i32::MAX, 22), (0, 3)] {
        assert_eq!(encode(&DEFAULT.level(level), b"", &text), encode(&DEFAULT.level(nearest), b"", &text));
    }
}

#[test]
fn another_inner_codec_is_refused_in_both_forms() {
    for value in [vec![7; 10], vec![7; 2000]] {
        let bytes = encode(&DEFAULT, b"", &value);
        let refused = refusal(Compressed::new(Raw::<201>).decode(&bytes));
        assert_eq!(refused, "the stored value was written with another inner codec");
        assert_eq!(DEFAULT.decode(&bytes).unwrap(), value);
    }
}

#[test]
fn other_formats_are_refused() {
    for bytes in [&b""[..], &[AS_IT_IS], &[FRAME], &[2, 200], &[255, 200, 1, 2, 3]] {
        assert_eq!(refusal(DEFAULT.decode(bytes)), "the stored bytes are not of the format of `Compressed`");
    }
    assert_eq!(refusal(DEFAULT.decode(&[FRAME, 200])), NOT_ONE_FRAME);
}

#[test]
fn a_cut_or_extended_frame_is_refused() {
    let bytes = encode(&DEFAULT, b"", &b"to be or not to be ".repeat(200));
    for end in 0..bytes.len() {
        refusal(DEFAULT.decode(&bytes[..end]));
    }
    for trailing in [&[0_u8][..], &FRAME_MAGIC, b"text"] {
        assert_eq!(refusal(DEFAULT.decode(&[&bytes, trailing].concat())), NOT_ONE_FRAME);
    }
}

#[test]
fn every_bit_flip_is_survived() {
    let mut bytes = encode(&DEFAULT, b"", &b"to be or not to be ".repeat(200));
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Err(error) = DEFAULT.decode(&bytes) {
            assert_eq!(error.kind(), ErrorKind::Codec);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// zstd itself decodes all of these.
#[test]
fn anything_but_one_frame_is_refused() {
    let frame = zeros(KIB_128, 1);
    // A frame that is skipped, of 3 bytes.
    let skipped = [0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3];
    assert_eq!(decode_frame(&frame).unwrap(), vec![0; KIB_128]);
    for frames in [vec![], [&frame[..], &frame].concat(), skipped.to_vec()] {
        assert_eq!(refusal(decode_frame(&frames)), NOT_ONE_FRAME);
    }
    for frames in [[&frame[..], &skipped].concat(), [&skipped[..], &frame].concat()] {
        assert_eq!(refusal(decode_frame(&frames)), NOT_ONE_FRAME);
    }
}

#[test]
fn a_frame_without_its_size_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&[7; 5000]).unwrap();
    encoder.flush().unwrap();
    assert_eq!(refusal(decode_frame(&encoder.finish().unwrap())), NO_SIZE);
}

#[test]
fn a_frame_states_its_true_size() {
    for stated in [0, 1, KIB_128 - 1, KIB_128 + 1, MAX_PAYLOAD] {
        assert_eq!(refusal(decode_frame(&zeros(stated, 1))), INVALID);
    }
}

/// `tests/bombs.rs` measures the memory.
#[test]
fn a_frame_decompresses_to_16_mib_at_most() {
    const GIB: usize = 1 << 30;
    assert_eq!(decode_frame(&zeros(MAX_PAYLOAD, 128)).unwrap().len(), MAX_PAYLOAD);
    assert_eq!(refusal(decode_frame(&zeros(MAX_PAYLOAD + KIB_128, 129))), TOO_LARGE);
    assert_eq!(refusal(decode_frame(&zeros(MAX_PAYLOAD + 1, 128))), TOO_LARGE);
    assert_eq!(refusal(decode_frame(&zeros(GIB, GIB / KIB_128))), TOO_LARGE);
    assert_eq!(refusal(decode_frame(&zeros(usize::MAX - 2, GIB / KIB_128))), TOO_LARGE);
    for stated in [0, 1000, MAX_PAYLOAD] {
        assert_eq!(refusal(decode_frame(&zeros(stated, GIB / KIB_128))), INVALID);
    }
}

#[test]
fn a_payload_of_more_than_16_mib_is_not_encoded_however_well_it_compresses() {
    let largest = vec![7; MAX_PAYLOAD];
    assert_eq!(DEFAULT.decode(&encode(&DEFAULT, b"", &largest)).unwrap(), largest);
    let error = DEFAULT.encode(&vec![7; MAX_PAYLOAD + 1], &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    // One that does not shrink has two bytes more, for which the envelope has no room.
    let seal = |length| {
        let envelope = Envelope::new(DEFAULT, 0);
        envelope.seal(Binding::new(b"k", 0), &noise(length), Life::new(1, None), 1)
    };
    assert_eq!(seal(MAX_PAYLOAD - 1).unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(seal(MAX_PAYLOAD - 2).unwrap().len(), MAX_PAYLOAD + 42);
}

#[test]
fn the_inner_codec_gets_the_name_and_gives_the_shape() {
    let codec = Compressed::new(NameOnly);
    let bytes = encode(&codec, b"users:1", &());
    codec.decode_for(b"users:1", &bytes).unwrap();
    assert_eq!(refusal(codec.decode_for(b"users:2", &bytes)), "another name");
    let mut bytes = Vec::new();
    codec.encode(&(), &mut bytes).unwrap();
    codec.decode(&bytes).unwrap();
    assert_eq!(bytes[HEADER..], *b"no name");

    assert_eq!(Codec::<Vec<u8>>::shape(&DEFAULT), Some(200));
    assert_eq!(codec.shape(), None);
}

#[test]
fn an_error_of_the_inner_codec_is_returned() {
    let codec = Compressed::new(Refuses);
    assert_eq!(refusal(codec.encode(&vec![7; 2000], &mut Vec::new())), "no encoding");
    assert_eq!(refusal(codec.decode(&[AS_IT_IS, 203])), "no decoding");
}
