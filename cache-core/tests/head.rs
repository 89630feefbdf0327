//! Replacing the head of a record gives the same bytes as sealing the record with the new lifetime.
#![cfg(all(feature = "bincode", feature = "json"))]

use std::sync::Arc;

use cache_core::{
    Entry, ErrorKind, Expiry,
    backend::{Binding, Envelope, Head, Life, Peeked},
    codec::{Bincode, Json},
};
use proptest::prelude::*;

const BINDING: Binding<'_> = Binding::new(b"users:42", 0xE90C_4001);
const SCHEMA: u32 = 0x5EED;
const ID: u64 = 0xFEED_FACE_CAFE_BEEF;
const LIFE: Life = Life::new(1_700_000_000_000, Some(1_700_000_060_000));
const STALES: Life = LIFE.stale_at(Some(1_700_000_030_000)).load_millis(250).age_millis(Some(9));

fn envelope() -> Envelope<Bincode> {
    Envelope::new(Bincode, SCHEMA)
}

fn seal(value: &str, life: Life) -> Vec<u8> {
    envelope().seal(BINDING, &value.to_owned(), life, ID).unwrap()
}

fn seal_validated(value: &str, life: Life, validator: Option<&str>) -> Vec<u8> {
    let entry = Entry::new(value.to_owned(), Expiry::Never).with_validator(validator.map(Arc::from));
    envelope().seal_entry(BINDING, &entry, life, ID).unwrap()
}

fn peek(record: &[u8]) -> Peeked {
    envelope().peek::<String>(&record[..record.len().min(Envelope::MAX_HEAD)], record.len())
}

fn head(record: &[u8]) -> Head {
    let Peeked::Value(head) = peek(record) else { panic!("no head of a value: {record:?}") };
    head
}

fn replaced(record: &[u8], head: &[u8]) -> Vec<u8> {
    [head, &record[head.len()..]].concat()
}

fn lives() -> impl Strategy<Value = Life> {
    let (often_zero, maybe) = (prop_oneof![Just(0), any::<u32>()], proptest::option::of(any::<u64>()));
    let age = prop_oneof![Just(Some(0)), Just(None), any::<u32>().prop_map(Some)];
    (any::<u64>(), maybe.clone(), maybe, often_zero, age).prop_map(|(created, expires, stale, load, age)| {
        Life::new(created, expires).stale_at(stale).load_millis(load).age_millis(age)
    })
}

proptest! {
    #[test]
    fn another_head_gives_what_sealing_anew_would(
        old in lives(), other in lives(), value in "\\PC{0,300}", blocks in 0_usize..3,
        validator in proptest::option::of("\\PC{1,30}"),
    ) {
        // Some payloads are longer than what the checksum takes at once.
        let value = value + &"x".repeat(blocks << 16);
        let mut new = old.stale_at(other.stale);
        new.expires = other.expires;
        let validated = |life| seal_validated(&value, life, validator.as_deref());
        let (record, anew) = (validated(old), validated(new));
        let head = head(&record);
        prop_assert_eq!(head.life(), old);
        prop_assert_eq!(head.bytes(), &record[..head.bytes().len()]);
        let other = head.with_lifetime(new.expires, new.stale);
        prop_assert_eq!(other.is_some(), record.len() == anew.len());
        prop_assert!(other.is_none_or(|other| replaced(&record, &other) == anew));
        prop_assert_eq!(head.with_lifetime(old.expires, old.stale).unwrap(), head.bytes());
    }

    /// A head that says something else than the record has said is noticed as before.
    #[test]
    fn a_corrupt_record_stays_corrupt(bit in 0_usize..100 * 8, expires: u64) {
        let mut record = seal(&"v".repeat(100), STALES);
        let at = Envelope::MAX_HEAD * 8 + bit;
        record[at / 8] ^= 1 << (at % 8);
        let other = head(&record).with_lifetime(Some(expires), STALES.stale).unwrap();
        let error = envelope().open::<String>(BINDING.key, &replaced(&record, &other)).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Codec);
    }

    #[test]
    fn any_bytes_have_a_head_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..80), length: usize) {
        prop_assert_eq!(envelope().peek::<String>(&bytes, length), Peeked::Unknown);
        let mut record = seal("v", LIFE);
        record.truncate(5);
        record.extend(bytes);
        // Whatever stands there, it is read without a panic, and given back as it was.
        if let Peeked::Value(head) = envelope().peek::<String>(&record, length) {
            prop_assert_eq!(head.with_lifetime(head.life().expires, head.life().stale).unwrap(), head.bytes());
        }
    }
}

#[test]
fn only_the_lifetime_changes() {
    let record = seal("v", STALES);
    let head = head(&record);
    let other = head.with_lifetime(Some(1_700_000_090_000), Some(1_700_000_080_000)).unwrap();
    let mut life = STALES.stale_at(Some(1_700_000_080_000));
    life.expires = Some(1_700_000_090_000);
    assert_eq!(replaced(&record, &other), seal("v", life));
    envelope().open::<String>(BINDING.key, &replaced(&record, &other)).unwrap();
    assert_eq!(other[Envelope::WRITE_ID], ID.to_le_bytes());
    assert_eq!(Envelope::epoch(&other), Some(BINDING.epoch));
    // Without an end, and with one again.
    let plain = seal("v", LIFE);
    let never = replaced(&plain, &self::head(&plain).with_lifetime(None, None).unwrap());
    assert_eq!(never, seal("v", Life::new(LIFE.created, None)));
    assert_eq!(replaced(&never, &self::head(&never).with_lifetime(LIFE.expires, None).unwrap()), plain);
}

#[test]
fn a_head_of_another_length_cannot_replace_it() {
    assert_eq!(head(&seal("v", LIFE)).with_lifetime(LIFE.expires, Some(1)), None);
    let stales = LIFE.stale_at(Some(1));
    assert_eq!(head(&seal("v", stales)).with_lifetime(LIFE.expires, None), None);
    assert!(head(&seal("v", stales.load_millis(1))).with_lifetime(LIFE.expires, None).is_some());
}

#[test]
fn what_has_no_value_has_no_head() {
    assert_eq!(peek(&Envelope::lease(BINDING, ID, 5)), Peeked::NoValue);
    assert_eq!(peek(&envelope().seal_absent::<String>(BINDING, LIFE, ID)), Peeked::NoValue);
}

#[test]
fn what_is_not_clear_has_no_head() {
    let record = seal("value", STALES);
    let unknown = |record: &[u8]| assert_eq!(peek(record), Peeked::Unknown, "{record:?}");
    for end in 0..Envelope::MAX_HEAD {
        unknown(&record[..end]);
    }
    // A head that is whole, of a record that is not.
    assert_eq!(envelope().peek::<String>(&record[..58], 57), Peeked::Unknown);
    // Other versions, the length of whose head differs; flags of later releases.
    for (at, byte) in [(0, b'm'), (3, 1), (3, 2), (3, 4), (4, record[4] | 128)] {
        let mut other = record.clone();
        other[at] = byte;
        unknown(&other);
    }
    // Their flags may have another meaning.
    let absent = envelope().seal_absent::<String>(BINDING, LIFE, ID);
    for marker in [absent, Envelope::lease(BINDING, ID, 5)] {
        for (at, byte) in [(0, b'm'), (3, 2), (3, 4)] {
            let mut other = marker.clone();
            other[at] = byte;
            unknown(&other);
        }
    }
    // Fields without meaning that are not zero, and an extension that says nothing.
    let mut other = record.clone();
    other[4] &= !2;
    unknown(&other);
    let mut other = seal("value", LIFE);
    other[4] |= 32;
    other.splice(42..42, [0; 16]);
    unknown(&other);
    // Another codec and another schema.
    assert_eq!(Envelope::new(Json, SCHEMA).peek::<String>(&record, record.len()), Peeked::Unknown);
    assert_eq!(Envelope::new(Bincode, SCHEMA + 1).peek::<String>(&record, record.len()), Peeked::Unknown);
}
