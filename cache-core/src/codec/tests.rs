//! Every codec against values of every shape, and against bytes that nobody encoded.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::CString,
    net::IpAddr,
    time::Duration,
};

use proptest::{collection as many, num, option, prelude::*};
use serde_derive::{Deserialize, Serialize};

use super::{Bincode, Codec, Json, MessagePack, Postcard};
use crate::{
    ErrorKind,
    backend::{Binding, Envelope, Life, Opened, Record},
};

/// One field for every way in which serde asks a format for something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rich {
    text: String,
    letters: Vec<char>,
    words: Vec<String>,
    bytes: Vec<u8>,
    /// The one type of the standard library that serde writes as bytes and not as a sequence.
    raw: CString,
    flags: [bool; 3],
    /// The outer option is some and the inner one none in a third of the cases.
    nested: Option<Inner>,
    shapes: Vec<Shape>,
    names: BTreeMap<String, i128>,
    lists: HashMap<u32, Vec<String>>,
    wide: (i128, u128),
    narrow: (i8, u16, i32, u64),
    floats: (f32, f64),
    lasts: Duration,
    address: IpAddr,
    unit: (),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    number: Option<u8>,
    boxed: Box<Option<String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(i64),
    Tuple(u8, String),
    Struct { name: Option<String>, on: bool },
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Unit),
        any::<i64>().prop_map(Shape::Newtype),
        any::<(u8, String)>().prop_map(|(number, text)| Shape::Tuple(number, text)),
        any::<(Option<String>, bool)>().prop_map(|(name, on)| Shape::Struct { name, on }),
    ]
}

/// Finite: JSON has no other floats.
fn floats() -> impl Strategy<Value = (f32, f64)> {
    (
        num::f32::NORMAL | num::f32::SUBNORMAL | num::f32::ZERO | num::f32::POSITIVE | num::f32::NEGATIVE,
        num::f64::NORMAL | num::f64::SUBNORMAL | num::f64::ZERO | num::f64::POSITIVE | num::f64::NEGATIVE,
    )
}

fn rich() -> impl Strategy<Value = Rich> {
    let texts = (
        any::<String>(),
        many::vec(any::<char>(), 0..8),
        many::vec(any::<String>(), 0..5),
        many::vec(any::<u8>(), 0..40),
        many::vec(1_u8..=255, 0..20).prop_map(|raw| CString::new(raw).unwrap()),
    );
    let inner = any::<(Option<u8>, Option<String>)>();
    let nested = option::of(inner.prop_map(|(number, boxed)| Inner { number, boxed: Box::new(boxed) }));
    let containers = (
        nested,
        many::vec(shape(), 0..6),
        many::btree_map(any::<String>(), any::<i128>(), 0..4),
        many::hash_map(any::<u32>(), many::vec(any::<String>(), 0..3), 0..4),
    );
    let numbers = (any::<[bool; 3]>(), any::<(i128, u128)>(), any::<(i8, u16, i32, u64)>(), floats());
    (texts, containers, numbers, any::<Duration>(), any::<IpAddr>()).prop_map(
        |(
            (text, letters, words, bytes, raw),
            (nested, shapes, names, lists),
            (flags, wide, narrow, floats),
            lasts,
            address,
        )| Rich {
            text,
            letters,
            words,
            bytes,
            raw,
            flags,
            nested,
            shapes,
            names,
            lists,
            wide,
            narrow,
            floats,
            lasts,
            address,
            unit: (),
        },
    )
}

fn encode<V, C: Codec<V>>(codec: &C, value: &V) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec.encode(value, &mut bytes).unwrap();
    bytes
}

/// Whatever it says, it says without a panic, and an error is of kind `Codec`.
fn survives<V, C: Codec<V>>(codec: &C, bytes: &[u8]) -> Option<V> {
    codec.decode(bytes).map_err(|error| assert_eq!(error.kind(), ErrorKind::Codec)).ok()
}

fn round_trips(codec: &(impl Codec<Rich> + Clone), value: &Rich) {
    let mut bytes = b"what was there".to_vec();
    codec.encode(value, &mut bytes).unwrap();
    let encoded = bytes.strip_prefix(b"what was there").expect("encode appends");
    assert_eq!(&codec.decode(encoded).unwrap(), value);

    let life = Life::new(1, Some(u64::MAX));
    let envelope = Envelope::new(codec.clone(), Envelope::schema_tag("rich"));
    let record = envelope.seal(Binding::new(b"k", 0), value, life, 7).unwrap();
    assert_eq!(&record[42..], encoded, "the payload is what the codec wrote");
    assert_eq!(envelope.open::<Rich>(b"k", &record).unwrap(), Opened::Record(Record::new(value.clone(), life)));
}

fn refuses_every_prefix(codec: &impl Codec<Rich>, value: &Rich) {
    let bytes = encode(codec, value);
    for end in 0..bytes.len() {
        assert_eq!(survives(codec, &bytes[..end]), None, "of {} bytes the first {end} decode", bytes.len());
    }
}

fn refuses_trailing_bytes(codec: &impl Codec<Rich>, value: &Rich, trailing: &[u8]) {
    let mut bytes = encode(codec, value);
    bytes.extend_from_slice(trailing);
    assert_eq!(survives(codec, &bytes), None, "trailing bytes pass");
}

fn survives_every_bit_flip(codec: &impl Codec<Rich>, value: &Rich) {
    let mut bytes = encode(codec, value);
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        survives(codec, &bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

macro_rules! every_codec {
    ($($name:ident: $codec:expr),*) => {$(
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(96))]

                #[test]
                fn round_trips(value in rich()) {
                    super::round_trips(&$codec, &value);
                }

                #[test]
                fn refuses_trailing_bytes(value in rich(), trailing in many::vec(0x21_u8..=0x7e, 1..9)) {
                    super::refuses_trailing_bytes(&$codec, &value, &trailing);
                }

                #[test]
                fn survives_random_bytes(bytes in many::vec(any::<u8>(), 0..300)) {
                    survives::<Rich, _>(&$codec, &bytes);
                    survives::<Vec<Shape>, _>(&$codec, &bytes);
                    survives::<HashMap<String, Option<Vec<char>>>, _>(&$codec, &bytes);
                    survives::<Vec<(IpAddr, Duration, CString)>, _>(&$codec, &bytes);
                }
            }

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(12))]

                #[test]
                fn refuses_every_prefix(value in rich()) {
                    super::refuses_every_prefix(&$codec, &value);
                }

                #[test]
                fn survives_every_bit_flip(value in rich()) {
                    super::survives_every_bit_flip(&$codec, &value);
                }
            }
        }
    )*};
}

every_codec!(bincode: Bincode, postcard: Postcard, json: Json, message_pack: MessagePack);

proptest! {
    #[test]
    fn nested_options_and_all_floats_survive_what_is_not_self_describing(
        options: Option<Option<Option<u8>>>, unit: Option<()>, double: u64, single: u32,
    ) {
        let value = (options, unit, f64::from_bits(double), f32::from_bits(single));
        for back in [Bincode.decode(&encode(&Bincode, &value)), Postcard.decode(&encode(&Postcard, &value))] {
            let back: (Option<Option<Option<u8>>>, Option<()>, f64, f32) = back.unwrap();
            prop_assert_eq!((back.0, back.1, back.2.to_bits(), back.3.to_bits()), (options, unit, double, single));
        }
    }
}

/// The cases that the docs of the codecs warn of.
#[test]
fn what_self_describing_formats_cannot_tell_apart() {
    type Nested = Option<Option<u8>>;
    assert_eq!(Codec::<Nested>::decode(&Json, &encode(&Json, &Some(None::<u8>))).unwrap(), None);
    assert_eq!(Codec::<Nested>::decode(&MessagePack, &encode(&MessagePack, &Some(None::<u8>))).unwrap(), None);
    assert_eq!(survives::<f64, _>(&Json, &encode(&Json, &f64::NAN)), None);
    assert_eq!(survives::<f64, _>(&Json, &encode(&Json, &f64::INFINITY)), None);
    assert_eq!(survives::<u8, _>(&Json, b"7 \n"), Some(7), "white space after JSON is part of it");
}

const MIB: usize = 1 << 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// bincode's limit counts what was decoded. It must count no more than the bytes that were
    /// read, or a value that just fits would be refused: so pad whatever value to exactly the
    /// limit.
    #[test]
    fn bincode_takes_whatever_it_encoded_right_up_to_the_limit(value in rich(), limit in 1_usize..=2) {
        let mut padded = (value, String::new());
        padded.1 = "x".repeat(limit * MIB - encode(&Bincode, &padded).len());
        let bytes = encode(&Bincode, &padded);
        prop_assert_eq!(bytes.len(), limit * MIB);
        prop_assert!(Codec::<(Rich, String)>::decode(&Bincode, &bytes).unwrap() == padded);
    }
}

#[test]
fn bincode_takes_every_length_around_its_limits() {
    for mib in [1, 2, 4, 8, 16] {
        for length in mib * MIB - 1..=mib * MIB + 1 {
            let value = "x".repeat(length - 8);
            let mut bytes = Vec::new();
            let encoded = Bincode.encode(&value, &mut bytes);
            if length > Envelope::MAX_PAYLOAD {
                assert_eq!(encoded.unwrap_err().kind(), ErrorKind::Codec);
            } else {
                encoded.unwrap();
                assert_eq!(bytes.len(), length);
                assert!(Codec::<String>::decode(&Bincode, &bytes).unwrap() == value, "{length} bytes");
            }
        }
    }
}

#[test]
fn bincode_takes_long_sequences_of_every_element() {
    fn check<T>(element: &T)
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Clone + PartialEq,
    {
        let each = encode(&Bincode, element).len();
        // As many as fit into the limit, which is then reached to within one element.
        for limit in [MIB, 2 * MIB] {
            let value = vec![element.clone(); (limit - 8) / each];
            let bytes = encode(&Bincode, &value);
            assert!(bytes.len() <= limit && bytes.len() + each > limit);
            assert!(Codec::<Vec<T>>::decode(&Bincode, &bytes).unwrap() == value, "{}", std::any::type_name::<T>());
        }
    }
    check(&u64::MAX);
    check(&i128::MIN);
    check(&u128::MAX);
    check(&f32::NAN.to_bits());
    check(&1.5_f32);
    check(&-1.5_f64);
    check(&true);
    check(&'a');
    check(&'ß');
    check(&'€');
    check(&'\u{10FFFF}');
    check(&Some(7_u8));
    check(&None::<u128>);
    check(&Duration::MAX);
    check(&IpAddr::from([255_u8; 16]));
    check(&IpAddr::from([127_u8, 0, 0, 1]));
    check(&Shape::Tuple(1, "text".into()));
    check(&Shape::Unit);
    check(&String::new());
    check(&(1_i8, [2_u16; 3], CString::from(c"raw")));
    check(&BTreeMap::from([(1_u8, 'x')]));
}

#[test]
fn bincode_refuses_more_than_16_mib() {
    let bytes = vec![0; Envelope::MAX_PAYLOAD + 1];
    assert_eq!(survives::<Vec<u8>, _>(&Bincode, &bytes), None);
}

#[test]
fn errors_do_not_quote_what_was_stored() {
    fn check(codec: &impl Codec<u64>) {
        let error = codec.decode(b"\"a secret of the user's\"").unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(std::error::Error::source(&error).is_none());
    }
    check(&Bincode);
    check(&Postcard);
    check(&Json);
    check(&MessagePack);
}

#[test]
fn ids_are_those_that_records_carry() {
    fn id<C: Codec<u8>>(_: C) -> u8 {
        C::ID
    }
    assert_eq!([id(Bincode), id(Postcard), id(Json), id(MessagePack)], [1, 2, 3, 4]);
}
