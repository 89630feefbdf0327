//! The envelope with records that were truncated, changed, forged, or written by another type or
//! codec.
#![cfg(all(feature = "bincode", feature = "postcard", feature = "json", feature = "messagepack"))]

use std::{sync::Arc, time::Duration};

use cache_core::{
    Codec, Entry, ErrorKind, Expiry, Result,
    backend::{Binding, Envelope, Life, Opened, Record},
    codec::{Bincode, Json, MessagePack, Postcard},
};
use proptest::{collection::vec, prelude::*};

type Value = (u64, Vec<String>);

const HEADER: usize = 42;
const LIFE: Life = Life::new(1_700_000_000_000, Some(1_700_000_060_000));
const STALES: Life = LIFE.stale_at(Some(1_700_000_030_000)).load_millis(250).age_millis(Some(9));
const AGELESS: Life = LIFE.age_millis(None);
const SCHEMA: u32 = 0x5EED;
const KEY: &[u8] = b"users:42";
const BINDING: Binding<'_> = Binding::new(KEY, 0xE90C_4001);

fn value() -> Value {
    (42, vec!["users".into(), "größer".into(), String::new()])
}

fn seal<C: Codec<Value> + Copy>(codec: C, life: Life) -> Vec<u8> {
    Envelope::new(codec, SCHEMA).seal(BINDING, &value(), life, 0xFEED_FACE_CAFE_BEEF).unwrap()
}

/// The entry of the value, with this validator.
fn validated(validator: &str) -> Entry<Value> {
    Entry::new(value(), Expiry::Never).with_validator(Some(validator.into()))
}

fn seal_validated<C: Codec<Value> + Copy>(codec: C, validator: &str, life: Life) -> Vec<u8> {
    Envelope::new(codec, SCHEMA).seal_entry(BINDING, &validated(validator), life, 0xFEED_FACE_CAFE_BEEF).unwrap()
}

/// A record of these bytes after a header that says that there is a validator. Its checksum is
/// right.
fn forged_validator<C: Codec<Value> + Copy>(codec: C, bytes: &[u8]) -> Vec<u8> {
    let mut record = seal(codec, LIFE);
    record[4] |= 64;
    record.truncate(HEADER);
    record.extend_from_slice(bytes);
    with_checksum(record)
}

/// A record whose checksum is right, whatever else it says; of an older version, also its length.
fn resealed(mut record: Vec<u8>) -> Vec<u8> {
    if record[3] != 3 {
        let length = u32::try_from(record.len().saturating_sub(header_of(&record))).unwrap();
        record[34..38].copy_from_slice(&length.to_le_bytes());
    }
    with_checksum(record)
}

/// Whether the header is extended.
fn is_extended(record: &[u8]) -> bool {
    record[3] == 2 || record[3] == 3 && record[4] & 32 != 0
}

/// The number of bytes before the validator, or before the payload if there is none.
fn fixed_header_of(record: &[u8]) -> usize {
    if is_extended(record) { HEADER + 16 } else { HEADER }
}

/// How many bytes come before the payload.
fn header_of(record: &[u8]) -> usize {
    let fixed = fixed_header_of(record);
    let length = record.get(fixed..fixed + 2).filter(|_| record[3] == 3 && record[4] & 64 != 0);
    length.map_or(fixed, |length| fixed + 2 + usize::from(u16::from_le_bytes(length.try_into().unwrap())))
}

fn with_checksum(mut record: Vec<u8>) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    if record[3] == 3 {
        hasher.update(KEY);
    }
    hasher.update(&record[..38]);
    hasher.update(&record[HEADER..]);
    record[38..HEADER].copy_from_slice(&hasher.finalize().to_le_bytes());
    record
}

/// The same as a record of version 1 or 2, which has a length in place of the epoch.
fn downgraded(mut record: Vec<u8>) -> Vec<u8> {
    if record[4] & 8 != 0 && !is_extended(&record) {
        // Version 1 has no room for the news that there is no value.
        record.splice(HEADER..HEADER, [0; 16]);
        record[4] |= 32;
    }
    record[3] = if is_extended(&record) { 2 } else { 1 };
    record[4] &= !32;
    resealed(record)
}

/// Refused with an error of kind `Codec`; its message, so that a test can tell why.
fn refusal<V>(opened: Result<Opened<V>>) -> String {
    let Err(error) = opened else { panic!("a bad record opens") };
    assert_eq!(error.kind(), ErrorKind::Codec);
    error.to_string()
}

/// Runs the body once for each codec.
macro_rules! for_each_codec {
    (|$codec:ident| $body:block) => {{
        {
            let $codec = Bincode;
            $body
        }
        {
            let $codec = Postcard;
            $body
        }
        {
            let $codec = Json;
            $body
        }
        {
            let $codec = MessagePack;
            $body
        }
    }};
}

/// Values that expire, values that do not, values that turn stale, those of unknown age, the news
/// that there is none, and leases, of each version; and values with a validator, of the third.
fn every_record<C: Codec<Value> + Copy>(codec: C) -> Vec<Vec<u8>> {
    let absent = Envelope::new(codec, SCHEMA).seal_absent(BINDING, LIFE, 7);
    let stays = seal(codec, Life::new(LIFE.created, None));
    let lease = Envelope::lease(BINDING, 7, 0);
    let records = [seal(codec, LIFE), stays, seal(codec, STALES), seal(codec, AGELESS), absent, lease];
    let validated = [LIFE, STALES].map(|life| seal_validated(codec, "\"größer\"", life));
    records.iter().cloned().chain(validated).chain(records.iter().cloned().map(downgraded)).collect()
}

#[test]
fn what_was_sealed_opens() {
    for_each_codec!(|codec| {
        let envelope = Envelope::new(codec, SCHEMA);
        let lives = [0, 1, u64::MAX]
            .into_iter()
            .flat_map(|created| [None, Some(0), Some(u64::MAX)].map(|expires| Life::new(created, expires)));
        for life in lives {
            let record = envelope.seal(BINDING, &value(), life, 9).unwrap();
            assert_eq!(record[Envelope::WRITE_ID], 9_u64.to_le_bytes());
            assert_eq!(envelope.open(KEY, &record).unwrap(), Opened::Record(Record::new(value(), life)));
            for (stale, load_millis, age_millis) in
                [(None, 1, Some(0)), (Some(0), 0, None), (None, 0, Some(u32::MAX)), (Some(u64::MAX), u32::MAX, Some(1))]
            {
                let life = life.stale_at(stale).load_millis(load_millis).age_millis(age_millis);
                let record = envelope.seal(BINDING, &value(), life, 9).unwrap();
                assert_eq!(record[Envelope::WRITE_ID], 9_u64.to_le_bytes());
                assert_eq!(envelope.open(KEY, &record).unwrap(), Opened::Record(Record::new(value(), life)));
                let record = envelope.seal_absent::<Value>(BINDING, life, 9);
                assert_eq!(envelope.open::<Value>(KEY, &record).unwrap(), Opened::Record(Record::absent(life)));
            }
        }
        let lease = Envelope::lease(BINDING, u64::MAX, 9);
        assert_eq!(lease[Envelope::WRITE_ID], [255; 8]);
        assert_eq!(lease[Envelope::CREATED], 9_u64.to_le_bytes());
        assert_eq!(envelope.open::<Value>(KEY, &lease).unwrap(), Opened::Lease);
    });
}

#[test]
fn a_validator_comes_back_with_its_value() {
    for_each_codec!(|codec| {
        let envelope = Envelope::new(codec, SCHEMA);
        for validator in ["v", "\"33a64df5\"", &"x".repeat(1024), &"\u{e4}".repeat(512)] {
            for life in [LIFE, STALES, AGELESS] {
                let record = seal_validated(codec, validator, life);
                let meant = Record::new(value(), life).with_validator(Some(validator.into()));
                assert_eq!(envelope.open(KEY, &record).unwrap(), Opened::Record(meant));
                // Besides the flag and the checksum, it is the record without a validator.
                let plain = seal(codec, life);
                let header = fixed_header_of(&plain);
                assert_eq!(record[4], plain[4] | 64);
                assert_eq!((&record[..4], &record[5..38]), (&plain[..4], &plain[5..38]));
                assert_eq!(record[42..header], plain[42..header]);
                assert_eq!(record[header + 2 + validator.len()..], plain[header..]);
            }
        }
    });
}

#[test]
fn an_entry_without_a_validator_is_the_record_that_it_always_was() {
    for_each_codec!(|codec| {
        let envelope = Envelope::new(codec, SCHEMA);
        for life in [LIFE, STALES, AGELESS] {
            let entry = Entry::new(value(), Expiry::Never);
            assert_eq!(
                envelope.seal_entry(BINDING, &entry, life, 9).unwrap(),
                envelope.seal(BINDING, &value(), life, 9).unwrap()
            );
            // The news that there is no value has none in a record.
            for entry in [Entry::absent(Expiry::Never), Entry::absent(Expiry::Never).with_validator(Some("v".into()))] {
                assert_eq!(
                    envelope.seal_entry::<Value>(BINDING, &entry, life, 9).unwrap(),
                    envelope.seal_absent::<Value>(BINDING, life, 9)
                );
            }
        }
    });
}

#[test]
fn a_validator_of_a_wrong_length_is_refused() {
    const INVALID: &str = "the validator in the stored record is invalid";
    for_each_codec!(|codec| {
        let envelope = Envelope::new(codec, SCHEMA);
        let payload = seal(codec, LIFE).split_off(HEADER);
        let forge = |length: u16, validator: &[u8]| {
            let bytes = [&length.to_le_bytes(), validator, &payload].concat();
            envelope.open::<Value>(KEY, &forged_validator(codec, &bytes))
        };
        let open = |opened: Result<Opened<Value>>| match opened.unwrap() {
            Opened::Record(record) => record.validator.unwrap().len(),
            other => panic!("a value opens as {other:?}"),
        };
        assert_eq!([1, 1024].map(|length| open(forge(length, &vec![b'v'; length.into()]))), [1, 1024]);
        assert_eq!(refusal(forge(0, b"")), INVALID);
        assert_eq!(refusal(forge(1025, &[b'v'; 1025])), INVALID);
        assert_eq!(refusal(forge(u16::MAX, &vec![b'v'; 65_535])), INVALID);
        assert_eq!(refusal(forge(1000, b"v")), INVALID, "longer than the record");
        assert_eq!(refusal(forge(2, b"\xff\xfe")), INVALID, "no UTF-8");
        for bytes in [&b""[..], b"\x01"] {
            assert_eq!(refusal(envelope.open::<Value>(KEY, &forged_validator(codec, bytes))), INVALID);
        }
        // A record without a value has no validator.
        let mut absent = envelope.seal_absent::<Value>(BINDING, LIFE, 7);
        absent[4] |= 64;
        for bytes in [&b""[..], b"\x01\x00v"] {
            let forged = with_checksum([&absent[..], bytes].concat());
            let opened = envelope.open::<Value>(KEY, &forged);
            assert_eq!(refusal(opened), "the stored record has flags that this version does not know");
        }
    });
}

#[test]
fn every_prefix_is_refused() {
    for_each_codec!(|codec| {
        for record in every_record(codec) {
            for end in 0..record.len() {
                refusal(Envelope::new(codec, SCHEMA).open::<Value>(KEY, &record[..end]));
            }
        }
    });
}

#[test]
fn every_changed_bit_is_noticed() {
    for_each_codec!(|codec| {
        for mut record in every_record(codec) {
            for bit in 0..record.len() * 8 {
                record[bit / 8] ^= 1 << (bit % 8);
                refusal(Envelope::new(codec, SCHEMA).open::<Value>(KEY, &record));
                record[bit / 8] ^= 1 << (bit % 8);
            }
        }
    });
}

/// What may stand at a place of a header whose checksum is right.
#[derive(PartialEq, Debug)]
enum Forged {
    /// Anything: an id, a time.
    Opens,
    /// Nothing but what stands there.
    Refused,
    /// What means the same, as another version or flag may.
    RefusedOrTheSame,
}

fn meaning(record: &[u8], at: usize, byte: u8) -> Forged {
    let (version, flags) = (record[3], record[4]);
    let known = [2, 2 | 4 | 8 | 16, 2 | 4 | 8 | 16 | 32 | 64][usize::from(version) - 1];
    let fixed = fixed_header_of(record);
    let free = match at {
        3 if (1..=3).contains(&byte) => return Forged::RefusedOrTheSame,
        4 if flags != 1 && byte & !known == 0 => return Forged::RefusedOrTheSame,
        // Another length moves the border of the payload, and other bytes may not be UTF-8.
        _ if at >= fixed => return Forged::RefusedOrTheSame,
        10..26 | 38..42 | 50..54 => true,
        26..34 => flags & 2 != 0,
        // An epoch in version 3, before it a length.
        34..38 => version == 3,
        42..50 => flags & 4 != 0,
        54..58 => flags & 16 == 0,
        _ => false,
    };
    if free || byte == record[at] { Forged::Opens } else { Forged::Refused }
}

/// With a right checksum, so that nothing but the meaning of the bytes can object.
#[test]
fn every_forged_header_byte_is_refused_or_harmless() {
    for_each_codec!(|codec| {
        let envelope = Envelope::new(codec, SCHEMA);
        let same = |one: &Opened<Value>, other: &Opened<Value>| match (one, other) {
            (Opened::Record(one), Opened::Record(other)) => one.value == other.value,
            (one, other) => one == other,
        };
        for record in every_record(codec) {
            let original = envelope.open::<Value>(KEY, &record).unwrap();
            for at in 0..header_of(&record) {
                for byte in 0..=255_u8 {
                    let mut forged = record.clone();
                    forged[at] = byte;
                    let forged = if (34..38).contains(&at) { with_checksum(forged) } else { resealed(forged) };
                    match (meaning(&record, at, byte), envelope.open::<Value>(KEY, &forged)) {
                        (Forged::Opens | Forged::RefusedOrTheSame, Ok(opened)) => {
                            // A header of another length leaves other bytes to the codec.
                            assert!(same(&opened, &original) || header_of(&forged) != header_of(&record));
                        }
                        (Forged::Refused | Forged::RefusedOrTheSame, Err(error)) => {
                            assert_eq!(error.kind(), ErrorKind::Codec);
                        }
                        (meaning, opened) => panic!("{record:?} with {byte} at {at}: {meaning:?}, but {opened:?}"),
                    }
                }
            }
        }
    });
}

#[test]
fn a_record_opens_under_its_own_key_alone() {
    for_each_codec!(|codec| {
        let envelope = Envelope::new(codec, SCHEMA);
        for record in every_record(codec) {
            let bound = record[3] == 3;
            for other in [&b""[..], b"users:43", b"users:4", b"users:422", b"\0users:42"] {
                let opened = envelope.open::<Value>(other, &record);
                assert_eq!(opened.is_err(), bound, "versions 1 and 2 know of no key");
                if bound {
                    assert_eq!(refusal(opened), CHANGED);
                }
            }
            assert_eq!(Envelope::epoch(&record), bound.then_some(BINDING.epoch));
            assert_eq!(Envelope::epoch(&record[..41]), None);
        }
    });
}

const CHANGED: &str = "the stored record was cut or changed, or belongs to another key";

#[test]
fn trailing_bytes_are_refused_even_with_a_right_checksum() {
    for_each_codec!(|codec| {
        for record in every_record(codec) {
            let mut longer = record.clone();
            longer.push(0);
            assert_eq!(refusal(Envelope::new(codec, SCHEMA).open::<Value>(KEY, &longer)), CHANGED);
            if record[3] != 3 {
                // The checksum is right, the length is not.
                let opened = Envelope::new(codec, SCHEMA).open::<Value>(KEY, &with_checksum(longer.clone()));
                assert_eq!(refusal(opened), "the stored record was cut or changed");
            }
            // All is right: the codec must object.
            refusal(Envelope::new(codec, SCHEMA).open::<Value>(KEY, &resealed(longer)));
        }
    });
}

#[test]
fn another_codecs_record_is_refused() {
    for_each_codec!(|writer| {
        for_each_codec!(|reader| {
            let opened = Envelope::new(reader, SCHEMA).open::<Value>(KEY, &seal(writer, LIFE));
            if id(writer) == id(reader) {
                assert_eq!(opened.unwrap(), Opened::Record(Record::new(value(), LIFE)));
            } else {
                assert_eq!(refusal(opened), "the stored record was written with another codec");
            }
        });
    });
}

fn id<C: Codec<Value>>(_: C) -> u8 {
    C::ID
}

#[test]
fn another_schemas_record_is_refused() {
    for_each_codec!(|codec| {
        for schema in [0, SCHEMA + 1, !SCHEMA, Envelope::schema_tag("users v2")] {
            let opened = Envelope::new(codec, schema).open::<Value>(KEY, &seal(codec, LIFE));
            assert_eq!(refusal(opened), "the stored record is of another type or schema");
        }
    });
}

#[test]
fn another_format_version_is_refused_by_its_name() {
    let mut record = seal(Bincode, LIFE);
    record[3] = 4;
    let message = refusal(Envelope::new(Bincode, SCHEMA).open::<Value>(KEY, &resealed(record)));
    assert_eq!(message, "the stored record is of a format that this version does not know");
}

#[test]
fn a_payload_of_more_than_16_mib_is_not_sealed() {
    let envelope = Envelope::new(Postcard, SCHEMA);
    // Postcard writes four bytes of length here.
    let fits = "x".repeat(Envelope::MAX_PAYLOAD - 4);
    let record = envelope.seal(BINDING, &fits, LIFE, 1).unwrap();
    assert_eq!(record.len(), HEADER + Envelope::MAX_PAYLOAD);
    assert!(envelope.open(KEY, &record).unwrap() == Opened::Record(Record::new(fits.clone(), LIFE)));
    let error = envelope.seal(BINDING, &(fits + "x"), LIFE, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
}

#[test]
fn debug_shows_neither_value_nor_validator() {
    let record = Record::new("secret", LIFE).with_validator(Some("secret".into()));
    let shown = format!("{:?} {:?}", Opened::Record(record), Envelope::new(Bincode, SCHEMA));
    assert!(!shown.contains("secret"), "{shown}");
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        for_each_codec!(|codec| {
            refusal(Envelope::new(codec, SCHEMA).open::<Value>(KEY, &bytes));
        });
    }

    /// Random payloads under a header that is right in every respect reach the codec, which must
    /// not panic.
    #[test]
    fn random_payloads_do_no_harm(payload in vec(any::<u8>(), 0..200)) {
        for_each_codec!(|codec| {
            let mut record = seal(codec, LIFE);
            record.truncate(HEADER);
            record.extend_from_slice(&payload);
            match Envelope::new(codec, SCHEMA).open::<Value>(KEY, &resealed(record)) {
                Ok(opened) => {
                    let Opened::Record(record) = opened else { panic!("a value opens as a lease") };
                    assert!(record.value.is_some() && (record.life, record.validator) == (LIFE, None));
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Codec),
            }
        });
    }

    /// Random bytes where the validator and the payload should be.
    #[test]
    fn random_validators_do_no_harm(bytes in vec(any::<u8>(), 0..200), short in any::<bool>()) {
        let mut bytes = bytes;
        if let [low, high, ..] = &mut bytes[..]
            && short
        {
            (*low, *high) = (*low % 8, 0);
        }
        for_each_codec!(|codec| {
            match Envelope::new(codec, SCHEMA).open::<Value>(KEY, &forged_validator(codec, &bytes)) {
                Ok(Opened::Record(record)) => {
                    let validator = record.validator.unwrap();
                    assert_eq!(validator.as_bytes(), &bytes[2..2 + usize::from(bytes[0])]);
                }
                Ok(other) => panic!("a value opens as {other:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Codec),
            }
        });
    }

    #[test]
    fn every_validator_comes_back(validator in "\\PC{1,256}", life in prop_oneof![Just(LIFE), Just(STALES)]) {
        for_each_codec!(|codec| {
            let opened = Envelope::new(codec, SCHEMA).open(KEY, &seal_validated(codec, &validator, life)).unwrap();
            let meant = Record::new(value(), life).with_validator(Some(Arc::from(&*validator)));
            assert_eq!(opened, Opened::Record(meant));
        });
    }

    #[test]
    fn a_life_is_never_longer_than_it_was_written(created: u64, ttl: u64, now: u64) {
        let expires = created.saturating_add(ttl);
        let remaining = Life::new(created, Some(expires)).remaining(now).unwrap();
        prop_assert!(remaining <= Duration::from_millis(ttl));
        prop_assert!(remaining <= Duration::from_millis(expires.saturating_sub(now)));
        prop_assert_eq!(remaining.is_zero(), now >= expires || ttl == 0 || expires == created);
    }

    /// Reader's clock behind the writer's or before it: the life is off by no more than the clocks
    /// are.
    #[test]
    fn a_life_is_off_by_no_more_than_the_clocks(
        created in 1_u64 << 40..1 << 41, ttl in 1_u64..1 << 32, elapsed in 0_u64..1 << 32, skew in -10_000_i64..=10_000,
    ) {
        let life = Life::new(created, Some(created + ttl));
        let now = (created + elapsed).checked_add_signed(skew).unwrap();
        let remaining = u64::try_from(life.remaining(now).unwrap().as_millis()).unwrap();
        prop_assert!(remaining <= ttl);
        prop_assert!(remaining.abs_diff(ttl.saturating_sub(elapsed)) <= skew.unsigned_abs());
    }

    #[test]
    fn nonsense_lives_have_passed_and_never_is_never(created: u64, expires: u64, now: u64) {
        let remaining = Life::new(created, Some(expires)).remaining(now).unwrap();
        prop_assert!(remaining <= Duration::from_millis(expires.saturating_sub(created)));
        prop_assert_eq!(Life::new(created, None).remaining(now), None);
    }
}

/// Writes the name of the record, and nothing else.
struct NameOnly;

impl Codec<String> for NameOnly {
    const ID: u8 = 200;

    fn encode(&self, _: &String, _: &mut Vec<u8>) -> Result<()> {
        panic!("a record has a name");
    }

    fn decode(&self, _: &[u8]) -> Result<String> {
        panic!("a record has a name");
    }

    fn encode_for(&self, name: &[u8], _: &String, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(name);
        Ok(())
    }

    fn decode_for(&self, name: &[u8], bytes: &[u8]) -> Result<String> {
        assert_eq!(name, bytes);
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }
}

#[test]
fn the_codec_gets_the_name_of_the_record() {
    let named = |envelope: &Envelope<NameOnly>| {
        let record = envelope.seal(BINDING, &String::new(), LIFE, 9).unwrap();
        let Opened::Record(opened) = envelope.open::<String>(KEY, &record).unwrap() else { panic!("a marker") };
        let entry = Entry::new(String::new(), Expiry::Never);
        assert_eq!(envelope.seal_entry(BINDING, &entry, LIFE, 9).unwrap(), record);
        opened.value.unwrap()
    };
    assert_eq!(named(&Envelope::new(NameOnly, SCHEMA)), "users:42");
    assert_eq!(named(&Envelope::new(NameOnly, SCHEMA).in_namespace("shop")), "shop:users:42");
}

/// A namespace changes nothing in the records of codecs that do not need the name.
#[test]
fn records_do_not_depend_on_the_namespace() {
    let record = Envelope::new(Json, SCHEMA).in_namespace("shop").seal(BINDING, &value(), LIFE, 9).unwrap();
    assert_eq!(record, Envelope::new(Json, SCHEMA).seal(BINDING, &value(), LIFE, 9).unwrap());
    let elsewhere = Envelope::new(Json, SCHEMA).in_namespace("elsewhere");
    assert_eq!(elsewhere.open::<Value>(KEY, &record).unwrap(), Opened::Record(Record::new(value(), LIFE)));
}
