//! Payloads that were moved, changed, forged, or encrypted with other keys.

use std::collections::HashSet;

use chacha20poly1305::{AeadInOut as _, KeyInit as _, XChaCha20Poly1305};
use proptest::{collection::vec, prelude::*};

use super::super::raw::{NameOnly, Raw, Refuses, encode, refusal};
use super::{Codec, Encrypted, EncryptionKey, HEADER, KeyRing, NONCE, TAG};
use crate::ErrorKind;

const OVERHEAD: usize = HEADER + NONCE + TAG;
const NAME: &[u8] = b"users:42";
const SECRET: [u8; 32] = *b"0123456789abcdef0123456789ABCDEF";
const CHANGED: &str =
    "the encrypted value was changed or moved from another name, or the key of this id in the key ring has other bytes";
const CUT: &str = "the encrypted value was cut";

fn key(id: u32) -> EncryptionKey {
    let mut secret = SECRET;
    secret[..4].copy_from_slice(&id.to_le_bytes());
    EncryptionKey::new(id, &secret)
}

fn ring(current: u32, decrypt_only: &[u32]) -> KeyRing {
    KeyRing::new(key(current), decrypt_only.iter().map(|&id| key(id))).unwrap()
}

fn codec() -> Encrypted<Raw> {
    Encrypted::new(Raw, ring(7, &[]))
}

fn text() -> Vec<u8> {
    b"a secret of the user's".to_vec()
}

proptest! {
    #[test]
    fn bytes_of_any_size_round_trip(value in vec(any::<u8>(), 0..2000), name in vec(any::<u8>(), 0..200)) {
        let bytes = encode(&codec(), &name, &value);
        prop_assert_eq!(bytes.len(), value.len() + OVERHEAD);
        prop_assert_eq!(codec().decode_for(&name, &bytes).unwrap(), value);
    }

    #[test]
    fn random_bytes_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        refusal(codec().decode_for(NAME, &bytes));
        refusal(codec().decode_for(NAME, &[&[1, 200, 7, 0, 0, 0], &bytes[..]].concat()));
    }

    #[test]
    fn a_payload_opens_for_no_other_name(a in "[a-c]{0,3}", b in "[a-c]{0,3}") {
        let bytes = encode(&codec(), a.as_bytes(), &text());
        let decoded = codec().decode_for(b.as_bytes(), &bytes);
        prop_assert_eq!(decoded.is_ok(), a == b);
    }
}

#[test]
fn a_moved_payload_is_refused() {
    let bytes = encode(&codec(), NAME, &text());
    assert_eq!(codec().decode_for(NAME, &bytes).unwrap(), text());
    for name in [&b"users:43"[..], b"users:4", b"users:420", b"", b"users:42\0"] {
        assert_eq!(refusal(codec().decode_for(name, &bytes)), CHANGED);
    }
}

#[test]
fn without_a_name_nothing_is_encrypted_or_decrypted() {
    let mut bytes = Vec::new();
    assert!(refusal(codec().encode(&text(), &mut bytes)).contains("`encode_for`"));
    assert!(bytes.is_empty());
    let nameless = encode(&codec(), b"", &text());
    assert!(refusal(codec().decode(&nameless)).contains("`decode_for`"));
    assert_eq!(codec().decode_for(b"", &nameless).unwrap(), text());
}

#[test]
fn a_cut_or_extended_payload_is_refused() {
    let bytes = encode(&codec(), NAME, &text());
    for end in 0..bytes.len() {
        let refused = refusal(codec().decode_for(NAME, &bytes[..end]));
        assert_eq!(refused, if end < OVERHEAD { CUT } else { CHANGED });
    }
    assert_eq!(refusal(codec().decode_for(NAME, &[&bytes[..], &[0]].concat())), CHANGED);
}

#[test]
fn every_bit_flip_is_refused() {
    for value in [text(), Vec::new()] {
        let mut bytes = encode(&codec(), NAME, &value);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            refusal(codec().decode_for(NAME, &bytes));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(codec().decode_for(NAME, &bytes).unwrap(), value);
    }
}

#[test]
fn another_format_is_refused() {
    let mut bytes = encode(&codec(), NAME, &text());
    for format in [0, 2, 255] {
        bytes[0] = format;
        let refused = refusal(codec().decode_for(NAME, &bytes));
        assert_eq!(refused, "the stored bytes are not encrypted in a format that this version knows");
    }
}

/// Encrypts the text as the docs describe it, with these associated data.
fn by_hand(header: [u8; 6], data: &[u8]) -> Vec<u8> {
    let nonce = [9; 24];
    let mut payload = text();
    let cipher: &XChaCha20Poly1305 = &XChaCha20Poly1305::new(&SECRET.into());
    let tag = cipher.encrypt_inout_detached(&nonce.into(), data, payload.as_mut_slice().into()).unwrap();
    [&header[..], &nonce, &payload, &tag].concat()
}

#[test]
fn the_associated_data_are_the_header_and_the_name() {
    let codec = Encrypted::new(Raw::<200>, KeyRing::new(EncryptionKey::new(0x0403_0201, &SECRET), []).unwrap());
    let header = [1, 200, 1, 2, 3, 4];
    assert_eq!(codec.decode_for(NAME, &by_hand(header, b"\x01\xC8\x01\x02\x03\x04users:42")).unwrap(), text());
    for data in [&b"users:42"[..], b"", &header, b"\xC8\x01\x02\x03\x04users:42", b"\x01\x01\x02\x03\x04users:42"] {
        assert_eq!(refusal(codec.decode_for(NAME, &by_hand(header, data))), CHANGED);
    }
}

#[test]
fn another_inner_codec_is_refused_before_anything_is_decrypted() {
    let mut bytes = encode(&codec(), NAME, &text());
    let other = Encrypted::new(Raw::<201>, ring(7, &[]));
    assert_eq!(refusal(other.decode_for(NAME, &bytes)), "the stored value was written with another inner codec");
    // The id of the inner codec cannot be changed.
    bytes[1] = 201;
    assert_eq!(refusal(other.decode_for(NAME, &bytes)), CHANGED);
}

#[test]
fn the_id_of_the_key_cannot_be_changed() {
    let twins = || KeyRing::new(EncryptionKey::new(1, &SECRET), [EncryptionKey::new(2, &SECRET)]).unwrap();
    let codec = Encrypted::new(Raw::<200>, twins());
    let mut bytes = encode(&codec, NAME, &text());
    bytes[2] = 2;
    assert_eq!(refusal(codec.decode_for(NAME, &bytes)), CHANGED);
}

#[test]
fn keys_rotate() {
    let with = |keys| Encrypted::new(Raw::<200>, keys);
    let opens = |codec: &Encrypted<Raw>, bytes: &[u8]| codec.decode_for(NAME, bytes).unwrap() == text();
    let (before, prepared) = (with(ring(1, &[])), with(ring(1, &[2])));
    let (rotated, after) = (with(ring(2, &[1])), with(ring(2, &[])));
    let old = encode(&before, NAME, &text());
    assert_eq!(old[2..6], 1_u32.to_le_bytes());
    assert_eq!(encode(&prepared, NAME, &text())[2..6], 1_u32.to_le_bytes(), "it only decrypts with the new key");
    let new = encode(&rotated, NAME, &text());
    assert_eq!(new[2..6], 2_u32.to_le_bytes());
    assert!(opens(&prepared, &old) && opens(&prepared, &new));
    assert!(opens(&rotated, &old) && opens(&rotated, &new));
    assert!(opens(&after, &new));
    let unknown = |id| {
        format!(
            "the value was encrypted with key {id}, which is not in the key ring; add the key, unless it was removed"
        )
    };
    assert_eq!(refusal(before.decode_for(NAME, &new)), unknown(2));
    assert_eq!(refusal(after.decode_for(NAME, &old)), unknown(1));
}

#[test]
fn another_key_of_the_same_id_is_refused() {
    let bytes = encode(&codec(), NAME, &text());
    let other = Encrypted::new(Raw::<200>, KeyRing::new(EncryptionKey::new(7, &[7; 32]), []).unwrap());
    assert_eq!(refusal(other.decode_for(NAME, &bytes)), CHANGED);
}

#[test]
fn a_key_ring_has_each_id_once() {
    let error = KeyRing::new(key(2), [key(1), key(3), key(2)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), "two encryption keys have the id 2; give each key an id of its own");
    assert_eq!(KeyRing::new(key(2), [key(1), key(1)]).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn no_nonce_is_used_twice_and_nothing_is_readable() {
    let codec = codec();
    let encrypted: Vec<Vec<u8>> = (0..1000).map(|_| encode(&codec, NAME, &text())).collect();
    let nonces: HashSet<&[u8]> = encrypted.iter().map(|bytes| &bytes[HEADER..HEADER + NONCE]).collect();
    assert_eq!(nonces.len(), encrypted.len());
    for bytes in encrypted {
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
}

#[test]
fn debug_shows_ids_and_no_key() {
    assert_eq!(format!("{:?}", key(7)), "EncryptionKey { id: 7, .. }");
    assert_eq!(format!("{:?}", ring(7, &[3, 9])), "KeyRing { current: 7, decrypt_only: [3, 9] }");
    let shown = format!("{:?}", Encrypted::new(Raw::<200>, ring(7, &[3])));
    assert_eq!(shown, "Encrypted { inner: Raw, keys: KeyRing { current: 7, decrypt_only: [3] } }");
}

/// Only with its feature `zeroize`, the cipher overwrites its key.
#[test]
fn a_dropped_key_is_overwritten() {
    fn is_overwritten<T: zeroize::ZeroizeOnDrop>(_: &T) {}
    is_overwritten(key(1).cipher());
}

#[test]
fn the_inner_codec_gets_the_name_and_gives_the_shape() {
    let codec = Encrypted::new(NameOnly, ring(1, &[]));
    let bytes = encode(&codec, NAME, &());
    assert_eq!(bytes.len(), NAME.len() + OVERHEAD);
    codec.decode_for(NAME, &bytes).unwrap();
    assert_eq!(codec.shape(), None);
    assert_eq!(Codec::<Vec<u8>>::shape(&super::tests::codec()), Some(200));
}

#[test]
fn an_error_of_the_inner_codec_is_returned() {
    let codec = Encrypted::new(Refuses, ring(1, &[]));
    assert_eq!(refusal(codec.encode_for(NAME, &text(), &mut Vec::new())), "no encoding");
}

#[cfg(feature = "zstd")]
#[test]
fn compressed_values_are_encrypted() {
    use crate::codec::Compressed;

    let codec = Encrypted::new(Compressed::new(Raw::<200>), ring(1, &[]));
    let value = text().repeat(1000);
    let bytes = encode(&codec, NAME, &value);
    assert!(bytes.len() < 200, "{} bytes", bytes.len());
    assert_eq!(codec.decode_for(NAME, &bytes).unwrap(), value);
    assert_eq!(bytes[1], 5);
    let other = Encrypted::new(Compressed::new(Raw::<201>), ring(1, &[]));
    assert_eq!(refusal(other.decode_for(NAME, &bytes)), "the stored value was written with another inner codec");
    let named = Encrypted::new(Compressed::new(NameOnly), ring(1, &[]));
    named.decode_for(NAME, &encode(&named, NAME, &())).unwrap();
}
