//! The memory that a record with wrong lengths makes a codec allocate: at most the bounds in the
//! docs of `codec`.
//!
//! The records are forged, with valid checksums. The counting allocator is that of
//! `allocation-counter`. It counts both blocks while a container moves from one to the other.
#![cfg(all(feature = "bincode", feature = "postcard", feature = "json", feature = "messagepack"))]

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ffi::CString,
};

use allocation_counter::measure;
use cache_core::{
    Codec, ErrorKind,
    backend::{Binding, Envelope, Life, Opened},
    codec::{Bincode, Json, MessagePack, Postcard},
};

const MIB: usize = 1 << 20;
const LIFE: Life = Life::new(1, None);

/// A codec that writes the bytes it is given under the id of `C`, to forge records.
struct Forge<C>(C);

impl<C: Codec<u8>> Codec<Vec<u8>> for Forge<C> {
    const ID: u8 = C::ID;

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> cache_core::Result<()> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> cache_core::Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }
}

/// The most bytes that were allocated at a time while the record of `payload` was opened, and
/// whether it opened.
fn peak<V, C: Codec<V> + Codec<u8> + Copy>(codec: C, payload: &[u8]) -> (usize, bool) {
    let record = Envelope::new(Forge(codec), 7).seal(Binding::new(b"k", 0), &payload.to_vec(), LIFE, 1).unwrap();
    let envelope = Envelope::new(codec, 7);
    let mut opens = false;
    let allocations = measure(|| match envelope.open::<V>(b"k", &record) {
        Ok(opened) => opens = matches!(opened, Opened::Record(record) if record.value.is_some()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Codec),
    });
    (usize::try_from(allocations.bytes_max).unwrap(), opens)
}

const CLAIMS: [u64; 10] =
    [1 << 10, 1 << 17, (1 << 20) - 9, 1 << 24, (1 << 31) - 1, u32::MAX as u64, 1 << 32, 1 << 62, 1 << 63, u64::MAX];

/// How each codec claims a length: of a string, of bytes, of a sequence, of a map.
trait Claims: Copy {
    fn claims(self, length: u64) -> Vec<Vec<u8>>;
}

impl Claims for Bincode {
    fn claims(self, length: u64) -> Vec<Vec<u8>> {
        vec![length.to_le_bytes().to_vec()]
    }
}

impl Claims for Postcard {
    fn claims(self, mut length: u64) -> Vec<Vec<u8>> {
        let mut varint = Vec::new();
        while length >= 0x80 {
            varint.push(length.to_le_bytes()[0] | 0x80);
            length >>= 7;
        }
        varint.push(length.to_le_bytes()[0]);
        vec![varint]
    }
}

impl Claims for MessagePack {
    fn claims(self, length: u64) -> Vec<Vec<u8>> {
        // 32 bits are the longest there are: str, bin, array, map, ext.
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        [0xdb_u8, 0xc6, 0xdd, 0xdf, 0xc9].map(|marker| [&[marker], &length[..]].concat()).to_vec()
    }
}

/// JSON claims no lengths. What it opens and never closes stands for them.
impl Claims for Json {
    fn claims(self, _: u64) -> Vec<Vec<u8>> {
        [&b"["[..], b"{", b"\"a", b"[[[", b"{\"a\":["].map(Vec::from).to_vec()
    }
}

/// What follows the length that lies: nothing, a little of any kind, or another such lie, in case
/// this one is believed.
fn followed_by(claim: &[u8]) -> Vec<Vec<u8>> {
    let followers = [&[][..], &[0], &[0; 100], &[1; 100], &[b'['; 100], &[0xff; 100], claim, &claim.repeat(4)];
    followers.iter().map(|follower| [claim, follower].concat()).collect()
}

/// `nesting`: of collections in the type, of which each may allocate ahead.
fn lies_are_cheap<V, C: Codec<V> + Codec<u8> + Claims>(codec: C, nesting: usize) {
    for claim in CLAIMS.into_iter().flat_map(|length| codec.claims(length)) {
        for payload in followed_by(&claim) {
            let (peak, opens) = peak::<V, C>(codec, &payload);
            let bound = 2 * payload.len() + MIB + nesting * 4 * MIB;
            assert!(!opens, "a lie opens as {}: {payload:x?}", std::any::type_name::<V>());
            assert!(peak <= bound, "{} allocates {peak} for {payload:x?}", std::any::type_name::<V>());
        }
    }
}

macro_rules! every_type {
    ($codec:expr) => {
        lies_are_cheap::<String, _>($codec, 0);
        // Where bytes may also be a sequence, that is a collection.
        lies_are_cheap::<CString, _>($codec, 1);
        lies_are_cheap::<Vec<u8>, _>($codec, 1);
        lies_are_cheap::<Vec<u64>, _>($codec, 1);
        lies_are_cheap::<Vec<[u64; 4]>, _>($codec, 1);
        lies_are_cheap::<Vec<String>, _>($codec, 1);
        lies_are_cheap::<VecDeque<(String, bool)>, _>($codec, 1);
        lies_are_cheap::<HashSet<u8>, _>($codec, 1);
        lies_are_cheap::<HashMap<u64, u64>, _>($codec, 1);
        lies_are_cheap::<HashMap<String, String>, _>($codec, 1);
        lies_are_cheap::<BTreeMap<String, CString>, _>($codec, 1);
        lies_are_cheap::<HashMap<String, Vec<String>>, _>($codec, 2);
        lies_are_cheap::<Vec<Vec<Vec<u8>>>, _>($codec, 3);
        lies_are_cheap::<Option<Box<(Vec<u32>, Vec<HashSet<bool>>)>>, _>($codec, 2);
    };
}

#[test]
fn bincode_believes_no_length() {
    every_type!(Bincode);
}

#[test]
fn postcard_believes_no_length() {
    every_type!(Postcard);
}

#[test]
fn json_believes_no_opening() {
    every_type!(Json);
}

#[test]
fn message_pack_believes_no_length() {
    every_type!(MessagePack);
}

/// bincode allocates strings and bytes at once, up to its limit, which is the least of 1, 2, 4, 8
/// and 16 MiB that fits.
#[test]
fn bincode_allocates_strings_ahead_up_to_twice_the_input() {
    for length in [8, MIB - 1, MIB, MIB + 1, 2 * MIB + 1, 4 * MIB + 1, 8 * MIB + 1, 16 * MIB] {
        for claim in (1..=16).map(|mib| mib * MIB as u64 - 8).chain(CLAIMS) {
            // What is true is no lie.
            if claim <= length as u64 - 8 {
                continue;
            }
            let mut payload = vec![b'x'; length];
            payload[..8].copy_from_slice(&claim.to_le_bytes());
            let (peak, opens) = peak::<String, _>(Bincode, &payload);
            assert!(!opens && peak <= (2 * length).max(MIB), "{peak} for {length} bytes that claim {claim}");
        }
    }
}

/// What is really there takes the room of its elements in memory, and three times that while a
/// vector grows.
#[test]
fn elements_that_are_there_take_their_room_and_no_more() {
    fn check<V, C: Codec<V> + Codec<u8> + Copy>(codec: C, payload: &[u8], elements: usize, each: usize) {
        let (peak, _) = peak::<V, C>(codec, payload);
        let bound = 2 * payload.len() + 5 * MIB + 3 * elements * each;
        assert!(peak <= bound, "{} allocates {peak} for {} bytes", std::any::type_name::<V>(), payload.len());
    }
    // A claim that is true, and one that goes beyond what follows.
    let elements = 100_000_u64;
    for claim in [elements, elements + 1, u64::MAX] {
        let count = 100_000;
        let zeros = vec![0; count];
        for claim in Postcard.claims(claim) {
            check::<Vec<String>, _>(Postcard, &[&claim[..], &zeros].concat(), count, 24);
            check::<Vec<u64>, _>(Postcard, &[&claim[..], &zeros].concat(), count, 8);
            check::<Vec<Option<u128>>, _>(Postcard, &[&claim[..], &zeros].concat(), count, 32);
        }
        for claim in Bincode.claims(claim) {
            check::<Vec<String>, _>(Bincode, &[&claim[..], &vec![0; 8 * count]].concat(), count, 24);
            check::<Vec<Option<u128>>, _>(Bincode, &[&claim[..], &zeros].concat(), count, 32);
        }
        for claim in MessagePack.claims(claim) {
            check::<Vec<u64>, _>(MessagePack, &[&claim[..], &zeros].concat(), count, 8);
            check::<Vec<Option<u128>>, _>(MessagePack, &[&claim[..], &vec![0xc0; count]].concat(), count, 32);
        }
    }
    check::<Vec<Option<u128>>, _>(Json, format!("[{}null]", "null,".repeat(99_999)).as_bytes(), 100_000, 32);
}

/// A long string where a number should be: serde writes it into an error that nobody reads.
#[test]
fn a_string_of_the_wrong_type_costs_a_multiple_of_its_length() {
    fn check<C: Codec<u64> + Codec<String> + Codec<u8> + Copy>(codec: C) {
        for text in ["x", "\u{7f}", "\u{1}", "\""].map(|part| part.repeat(200_000)) {
            let mut payload = Vec::new();
            codec.encode(&text, &mut payload).unwrap();
            let (peak, opens) = peak::<u64, C>(codec, &payload);
            assert!(!opens && peak <= 18 * payload.len(), "{peak} for {} bytes", payload.len());
        }
    }
    check(Json);
    check(MessagePack);
}
