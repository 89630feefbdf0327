//! Records of every released format stay readable.
//!
//! The files never change: `golden/v1-*.bin` and `golden/v2-*.bin` were written by the format
//! versions 1 and 2, which are read only, and `golden/v3-*.bin` by version 3, which is written. A
//! new format version adds its own files: change the names in `version_3`, run the test once, which
//! writes the missing files and fails, then review the files and commit them. Keep the old files in
//! a test that only opens them. If a new release of a codec's library changes an encoding, that is
//! not a new version of the format: the encoding needs a new codec id, and files of that name.
//!
//! Two kinds of files are not written the same again, and must only open: compressed ones, because
//! another version of zstd may compress otherwise, and encrypted ones, whose nonces are random.
#![cfg(all(feature = "bincode", feature = "postcard", feature = "json", feature = "messagepack"))]

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

#[cfg(feature = "zstd")]
use cache_core::codec::Compressed;
use cache_core::{
    Codec, Entry, Expiry,
    backend::{Binding, Envelope, Life, Opened, Record},
    codec::{Bincode, Json, MessagePack, Postcard},
};
#[cfg(feature = "encryption")]
use cache_core::{
    ErrorKind,
    codec::{Encrypted, EncryptionKey, KeyRing},
};
use serde_derive::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
    email: Option<String>,
    role: Role,
    tags: Vec<String>,
    balances: BTreeMap<String, i128>,
    ratio: f64,
    session: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Role {
    Guest,
    Member { since: u16 },
    Admin(Vec<u8>),
}

fn user() -> User {
    User {
        id: u64::MAX - 1,
        name: "Zoë \u{1F980}".into(),
        email: None,
        role: Role::Member { since: 2024 },
        tags: vec![String::new(), "a:b".into()],
        balances: BTreeMap::from([("EUR".into(), i128::MIN), ("USD".into(), 12)]),
        ratio: -0.1,
        session: Duration::new(3, 999_999_999),
    }
}

const BINDING: Binding<'_> = Binding::new(b"users:42", 0xE90C_4001);
const WRITE_ID: u64 = 0x0123_4567_89AB_CDEF;
const STAYS: Life = Life::new(1_700_000_000_123, None);
const EXPIRES: Life = Life::new(1_700_000_000_123, Some(1_700_000_060_456));
const STALES: Life = EXPIRES.stale_at(Some(1_700_000_030_789)).load_millis(1_234).age_millis(Some(5_678));
const AGELESS: Life = EXPIRES.age_millis(None);

fn envelope<C: Codec<User>>(codec: C) -> Envelope<C> {
    Envelope::new(codec, Envelope::schema_tag("golden user"))
}

fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", file].iter().collect()
}

/// Versions 1 and 2 know of no key and no epoch.
fn opens<C: Codec<User> + Copy>(file: &str, codec: C, meant: &Opened<User>) {
    let golden = fs::read(path(file)).unwrap();
    for key in [&b"users:42"[..], b"another"] {
        assert_eq!(envelope(codec).open(key, &golden).unwrap(), *meant, "{file} reads as something else");
    }
    assert_eq!(Envelope::epoch(&golden), None);
}

fn is_written<C: Codec<User> + Copy>(file: &str, codec: C, record: &[u8], meant: &Opened<User>) {
    let golden = fs::read(path(file)).unwrap_or_else(|_| {
        fs::write(path(file), record).unwrap();
        panic!("{file} was missing and has been written; look at it and commit it");
    });
    assert_eq!(golden, record, "{file} would be written otherwise now");
    assert_eq!(envelope(codec).open(BINDING.key, &golden).unwrap(), *meant, "{file} reads as something else");
    assert_eq!(Envelope::epoch(&golden), Some(BINDING.epoch));
}

fn version_1<C: Codec<User> + Copy>(name: &str, codec: C) {
    opens(&format!("v1-{name}-value.bin"), codec, &Opened::Record(Record::new(user(), STAYS)));
    opens(&format!("v1-{name}-expiring.bin"), codec, &Opened::Record(Record::new(user(), EXPIRES)));
    opens("v1-lease.bin", codec, &Opened::Lease);
}

fn version_2<C: Codec<User> + Copy>(name: &str, codec: C) {
    opens(&format!("v2-{name}-stale.bin"), codec, &Opened::Record(Record::new(user(), STALES)));
    opens(&format!("v2-{name}-ageless.bin"), codec, &Opened::Record(Record::new(user(), AGELESS)));
    opens(&format!("v2-{name}-absent.bin"), codec, &Opened::Record(Record::absent(EXPIRES)));
}

fn version_3<C: Codec<User> + Copy>(name: &str, codec: C) {
    for (what, life) in [("value", STAYS), ("expiring", EXPIRES), ("stale", STALES), ("ageless", AGELESS)] {
        let record = envelope(codec).seal(BINDING, &user(), life, WRITE_ID).unwrap();
        is_written(&format!("v3-{name}-{what}.bin"), codec, &record, &Opened::Record(Record::new(user(), life)));
    }
    for (what, life) in [("validator", EXPIRES), ("validator-stale", STALES)] {
        let validator = Some(Arc::from("W/\"größer-33a64df5\""));
        let entry = Entry::new(user(), Expiry::Never).with_validator(validator.clone());
        let record = envelope(codec).seal_entry(BINDING, &entry, life, WRITE_ID).unwrap();
        let meant = Opened::Record(Record::new(user(), life).with_validator(validator));
        is_written(&format!("v3-{name}-{what}.bin"), codec, &record, &meant);
    }
    let absent = envelope(codec).seal_absent(BINDING, EXPIRES, WRITE_ID);
    is_written(&format!("v3-{name}-absent.bin"), codec, &absent, &Opened::Record(Record::absent(EXPIRES)));
    is_written("v3-lease.bin", codec, &Envelope::lease(BINDING, WRITE_ID, 0), &Opened::Lease);
}

#[test]
fn bincode_records() {
    version_1("bincode", Bincode);
    version_2("bincode", Bincode);
    version_3("bincode", Bincode);
}

#[test]
fn postcard_records() {
    version_1("postcard", Postcard);
    version_2("postcard", Postcard);
    version_3("postcard", Postcard);
}

#[test]
fn json_records() {
    version_1("json", Json);
    version_2("json", Json);
    version_3("json", Json);
}

#[test]
fn message_pack_records() {
    version_1("messagepack", MessagePack);
    version_2("messagepack", MessagePack);
    version_3("messagepack", MessagePack);
}

/// Schema tags and epochs stand in every record, so the functions that make them are part of the
/// format.
#[test]
fn schema_tags_and_epochs_stay() {
    assert_eq!(Envelope::schema_tag("golden user"), 0x5A14_9A62);
    assert_eq!(Envelope::schema_tag(""), 0);
    assert_eq!(Binding::epoch_of("golden user"), 0x5A14_9A62);
    assert_eq!(Binding::epoch_of(""), 1, "0 is no run");
}

/// Both variants that no golden record holds are part of the format too.
#[test]
fn the_type_itself_round_trips() {
    for role in [Role::Guest, Role::Admin(vec![1, 2])] {
        let user = User { role, email: Some("z@example.org".into()), ..user() };
        let envelope = Envelope::new(Bincode, 1);
        let record = envelope.seal(BINDING, &user, STAYS, 1).unwrap();
        assert_eq!(envelope.open(BINDING.key, &record).unwrap(), Opened::Record(Record::new(user, STAYS)));
    }
}

/// A file that this version writes otherwise each time, or that another version of a library may
/// write otherwise.
#[cfg(any(feature = "encryption", feature = "zstd"))]
fn stays_readable<C: Codec<User>>(file: &str, codec: C, user: &User) {
    let envelope = envelope(codec);
    let golden = fs::read(path(file)).unwrap_or_else(|_| {
        fs::write(path(file), envelope.seal(BINDING, user, EXPIRES, WRITE_ID).unwrap()).unwrap();
        panic!("{file} was missing and has been written; look at it and commit it");
    });
    let meant = Opened::Record(Record::new(user.clone(), EXPIRES));
    assert_eq!(envelope.open(BINDING.key, &golden).unwrap(), meant, "{file} reads as something else");
}

/// A user whose record shrinks.
#[cfg(feature = "zstd")]
fn long_user() -> User {
    User { tags: (0..200).map(|n| format!("tag {}", n % 10)).collect(), ..user() }
}

#[cfg(feature = "encryption")]
fn keys() -> KeyRing {
    KeyRing::new(EncryptionKey::new(0x600D_0002, &[2; 32]), [EncryptionKey::new(0x600D_0001, &[1; 32])]).unwrap()
}

#[cfg(feature = "zstd")]
#[test]
fn compressed_records() {
    let codec = Compressed::new(Json);
    let record = envelope(codec).seal(BINDING, &user(), EXPIRES, WRITE_ID).unwrap();
    is_written("v3-compressed-json-short.bin", codec, &record, &Opened::Record(Record::new(user(), EXPIRES)));
    stays_readable("v3-compressed-json-long.bin", codec, &long_user());
    stays_readable("v3-compressed-bincode-long.bin", Compressed::new(Bincode), &long_user());
}

#[cfg(feature = "encryption")]
#[test]
fn encrypted_records() {
    stays_readable("v3-encrypted-json.bin", Encrypted::new(Json, keys()), &user());
    stays_readable("v3-encrypted-postcard.bin", Encrypted::new(Postcard, keys()), &user());
    // The file is bound to its key, and to the id of the encryption key.
    let golden = fs::read(path("v3-encrypted-json.bin")).unwrap();
    let payload = &golden[42..];
    assert_eq!(payload[..6], [1, 3, 2, 0, 0x0D, 0x60]);
    let codec = Encrypted::new(Json, keys());
    assert_eq!(Codec::<User>::decode_for(&codec, BINDING.key, payload).unwrap(), user());
    let moved = Codec::<User>::decode_for(&codec, b"users:43", payload);
    assert_eq!(moved.unwrap_err().kind(), ErrorKind::Codec);
}

#[cfg(all(feature = "encryption", feature = "zstd"))]
#[test]
fn encrypted_compressed_records() {
    stays_readable("v3-encrypted-compressed-json.bin", Encrypted::new(Compressed::new(Json), keys()), &long_user());
}
