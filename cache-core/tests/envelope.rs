//! The envelope against records that were cut, changed, forged or written by another.
#![cfg(all(feature = "bincode", feature = "postcard", feature = "json", feature = "messagepack"))]

use std::time::Duration;

use cache_core::{
    Codec, Envelope, ErrorKind, Life, Opened, Result,
    codec::{Bincode, Json, MessagePack, Postcard},
};
use proptest::{collection::vec, prelude::*};

type Value = (u64, Vec<String>);

const HEADER: usize = 42;
const LIFE: Life = Life::new(1_700_000_000_000, Some(1_700_000_060_000));
const STALES: Life = Life { stale: Some(1_700_000_030_000), load_millis: 250, age_millis: Some(9), ..LIFE };
const AGELESS: Life = Life { age_millis: None, ..LIFE };
const SCHEMA: u32 = 0x5EED;

fn value() -> Value {
    (42, vec!["users".into(), "größer".into(), String::new()])
}

fn seal<C: Codec<Value> + Copy>(codec: C, life: Life) -> Vec<u8> {
    Envelope::new(codec, SCHEMA).seal(&value(), life, 0xFEED_FACE_CAFE_BEEF).unwrap()
}

/// A record whose length and checksum are right, whatever else it says.
fn resealed(mut record: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(record.len().saturating_sub(header_of(&record))).unwrap();
    record[34..38].copy_from_slice(&length.to_le_bytes());
    with_checksum(record)
}

/// How many bytes come before the payload.
fn header_of(record: &[u8]) -> usize {
    if record[3] == 2 { HEADER + 16 } else { HEADER }
}

fn with_checksum(mut record: Vec<u8>) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..38]);
    hasher.update(&record[HEADER..]);
    record[38..HEADER].copy_from_slice(&hasher.finalize().to_le_bytes());
    record
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

/// Values that expire, values that do not, values that turn stale, those of unknown age, the news that there
/// is none, and leases.
fn every_record<C: Codec<Value> + Copy>(codec: C) -> [Vec<u8>; 6] {
    let absent = Envelope::new(codec, SCHEMA).seal_absent(LIFE, 7);
    let stays = seal(codec, Life { expires: None, ..LIFE });
    [seal(codec, LIFE), stays, seal(codec, STALES), seal(codec, AGELESS), absent, Envelope::lease(7, 0)]
}

#[test]
fn what_was_sealed_opens() {
    for_each_codec!(|codec| {
        let envelope = Envelope::new(codec, SCHEMA);
        let lives = [0, 1, u64::MAX]
            .into_iter()
            .flat_map(|created| [None, Some(0), Some(u64::MAX)].map(|expires| Life::new(created, expires)));
        for life in lives {
            let record = envelope.seal(&value(), life, 9).unwrap();
            assert_eq!(record[Envelope::WRITE_ID], 9_u64.to_le_bytes());
            assert_eq!(envelope.open(&record).unwrap(), Opened::Value(value(), life));
            for (stale, load_millis, age_millis) in
                [(None, 1, Some(0)), (Some(0), 0, None), (None, 0, Some(u32::MAX)), (Some(u64::MAX), u32::MAX, Some(1))]
            {
                let life = Life { stale, load_millis, age_millis, ..life };
                let record = envelope.seal(&value(), life, 9).unwrap();
                assert_eq!(record[Envelope::WRITE_ID], 9_u64.to_le_bytes());
                assert_eq!(envelope.open(&record).unwrap(), Opened::Value(value(), life));
                let record = envelope.seal_absent::<Value>(life, 9);
                assert_eq!(envelope.open::<Value>(&record).unwrap(), Opened::Absent(life));
            }
        }
        let lease = Envelope::lease(u64::MAX, 9);
        assert_eq!(lease[Envelope::WRITE_ID], [255; 8]);
        assert_eq!(lease[Envelope::CREATED], 9_u64.to_le_bytes());
        assert_eq!(envelope.open::<Value>(&lease).unwrap(), Opened::Lease);
    });
}

#[test]
fn every_prefix_is_refused() {
    for_each_codec!(|codec| {
        for record in every_record(codec) {
            for end in 0..record.len() {
                refusal(Envelope::new(codec, SCHEMA).open::<Value>(&record[..end]));
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
                refusal(Envelope::new(codec, SCHEMA).open::<Value>(&record));
                record[bit / 8] ^= 1 << (bit % 8);
            }
        }
    });
}

/// With a right checksum, so that nothing but the meaning of the bytes can object.
#[test]
fn every_forged_header_byte_is_refused_or_harmless() {
    for_each_codec!(|codec| {
        for record in every_record(codec) {
            let is_lease = record == Envelope::lease(7, 0);
            for at in 0..header_of(&record) {
                for byte in 0..=255_u8 {
                    let mut forged = record.clone();
                    forged[at] = byte;
                    let forged = if (34..38).contains(&at) { with_checksum(forged) } else { resealed(forged) };
                    let opened = Envelope::new(codec, SCHEMA).open::<Value>(&forged);
                    // Ids of writes and times may be anything; a record that does not expire has no time of expiry,
                    // and becomes one that did long ago by the flag alone. So it is with turning stale.
                    let free = Envelope::WRITE_ID.contains(&at) || (18..26).contains(&at) || (38..42).contains(&at);
                    let expires = (26..34).contains(&at) && record[4] & 2 != 0;
                    let stales = (42..50).contains(&at) && record[4] & 4 != 0 || (50..54).contains(&at);
                    let aged = (54..58).contains(&at) && record[4] & 16 == 0;
                    // What has no age in it may say so by the flag alone, or have been just made.
                    let ageless = record[3] == 2 && record[54..58] == [0; 4];
                    let flags: &[u8] = if record[3] == 2 { &[2, 4] } else { &[2] };
                    let same_age = (byte ^ record[4]) & 16 == 0 || ageless;
                    let long_ago = flags.iter().chain(&[0]).any(|flag| byte & !16 == record[4] & !16 | flag);
                    let flags = at == 4 && !is_lease && long_ago && same_age;
                    if forged == record || free || expires || stales || aged || flags {
                        assert_eq!(matches!(opened.unwrap(), Opened::Lease), is_lease);
                    } else {
                        refusal(opened);
                    }
                }
            }
        }
    });
}

#[test]
fn trailing_bytes_are_refused_even_with_a_right_checksum() {
    for_each_codec!(|codec| {
        for record in every_record(codec) {
            let mut longer = record.clone();
            longer.push(0);
            assert_eq!(
                refusal(Envelope::new(codec, SCHEMA).open::<Value>(&longer)),
                "the stored record was cut or changed"
            );
            // The checksum is right, the length is not.
            assert_eq!(
                refusal(Envelope::new(codec, SCHEMA).open::<Value>(&with_checksum(longer.clone()))),
                "the stored record was cut or changed"
            );
            // Both are right: the codec must object.
            refusal(Envelope::new(codec, SCHEMA).open::<Value>(&resealed(longer)));
        }
    });
}

#[test]
fn another_codecs_record_is_refused() {
    for_each_codec!(|writer| {
        for_each_codec!(|reader| {
            let opened = Envelope::new(reader, SCHEMA).open::<Value>(&seal(writer, LIFE));
            if id(writer) == id(reader) {
                assert_eq!(opened.unwrap(), Opened::Value(value(), LIFE));
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
            let opened = Envelope::new(codec, schema).open::<Value>(&seal(codec, LIFE));
            assert_eq!(refusal(opened), "the stored record is of another type or schema");
        }
    });
}

#[test]
fn another_format_version_is_refused_by_its_name() {
    let mut record = seal(Bincode, LIFE);
    record[3] = 3;
    let message = refusal(Envelope::new(Bincode, SCHEMA).open::<Value>(&resealed(record)));
    assert_eq!(message, "the stored record is of a format that this version does not know");
}

#[test]
fn a_payload_of_more_than_16_mib_is_not_sealed() {
    let envelope = Envelope::new(Postcard, SCHEMA);
    // Postcard writes four bytes of length here.
    let fits = "x".repeat(Envelope::MAX_PAYLOAD - 4);
    let record = envelope.seal(&fits, LIFE, 1).unwrap();
    assert_eq!(record.len(), HEADER + Envelope::MAX_PAYLOAD);
    assert!(envelope.open(&record).unwrap() == Opened::Value(fits.clone(), LIFE));
    let error = envelope.seal(&(fits + "x"), LIFE, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
}

#[test]
fn debug_shows_no_value() {
    let shown = format!("{:?} {:?}", Opened::Value("secret", LIFE), Envelope::new(Bincode, SCHEMA));
    assert!(!shown.contains("secret"), "{shown}");
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        for_each_codec!(|codec| {
            refusal(Envelope::new(codec, SCHEMA).open::<Value>(&bytes));
        });
    }

    /// Random payloads under a header that is right in every respect reach the codec, which must not panic.
    #[test]
    fn random_payloads_do_no_harm(payload in vec(any::<u8>(), 0..200)) {
        for_each_codec!(|codec| {
            let mut record = seal(codec, LIFE);
            record.truncate(HEADER);
            record.extend_from_slice(&payload);
            match Envelope::new(codec, SCHEMA).open::<Value>(&resealed(record)) {
                Ok(opened) => assert!(matches!(opened, Opened::Value(_, LIFE))),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Codec),
            }
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

    /// Reader's clock behind the writer's or before it: the life is off by no more than the clocks are.
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
