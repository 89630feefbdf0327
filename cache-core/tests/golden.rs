//! Records of every released format stay readable.
//!
//! `golden/v1-*.bin` were written by format version 1, `golden/v2-*.bin` by version 2 (which is written only where version 1
//! has no room); they never change. A new format version adds files of its own:
//! raise `VERSION`, run the test once (it writes the files that are missing, and fails), look at them and commit them;
//! keep the old ones in a test that only opens them. An encoding that a new release of a codec's library changes is not
//! a new version of the format: it needs a codec id of its own, and files of that name.
#![cfg(all(feature = "bincode", feature = "postcard", feature = "json", feature = "messagepack"))]

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use cache_core::{
    Codec, Envelope, Life, Opened,
    codec::{Bincode, Json, MessagePack, Postcard},
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

const VERSION: &str = "v1";
const WRITE_ID: u64 = 0x0123_4567_89AB_CDEF;
const STAYS: Life = Life::new(1_700_000_000_123, None);
const EXPIRES: Life = Life::new(1_700_000_000_123, Some(1_700_000_060_456));

fn records<C: Codec<User> + Copy>(name: &str, codec: C) -> [(String, Vec<u8>); 2] {
    let envelope = Envelope::new(codec, Envelope::schema_tag("golden user"));
    [("value", STAYS), ("expiring", EXPIRES)]
        .map(|(what, life)| (format!("{VERSION}-{name}-{what}.bin"), envelope.seal(&user(), life, WRITE_ID).unwrap()))
}

fn lease() -> (String, Vec<u8>) {
    (format!("{VERSION}-lease.bin"), Envelope::lease(WRITE_ID, 0))
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

/// The golden file, which must be there.
fn golden(file: &str, record: &[u8]) -> Vec<u8> {
    fs::read(path(file)).unwrap_or_else(|_| {
        fs::write(path(file), record).unwrap();
        panic!("{file} was missing and has been written; look at it and commit it");
    })
}

fn opens_and_is_reproduced<C: Codec<User> + Copy>(name: &str, codec: C) {
    let envelope = Envelope::new(codec, Envelope::schema_tag("golden user"));
    for ((file, record), life) in records(name, codec).into_iter().zip([STAYS, EXPIRES]) {
        let golden = golden(&file, &record);
        assert_eq!(envelope.open(&golden).unwrap(), Opened::Value(user(), life), "{file} reads as something else");
        assert_eq!(golden, record, "{file} would be written otherwise now");
    }
    let (file, record) = lease();
    let golden = golden(&file, &record);
    assert_eq!(envelope.open::<User>(&golden).unwrap(), Opened::Lease);
    assert_eq!(golden, record);
}

#[test]
fn bincode_records_of_version_1() {
    opens_and_is_reproduced("bincode", Bincode);
}

#[test]
fn postcard_records_of_version_1() {
    opens_and_is_reproduced("postcard", Postcard);
}

#[test]
fn json_records_of_version_1() {
    opens_and_is_reproduced("json", Json);
}

#[test]
fn message_pack_records_of_version_1() {
    opens_and_is_reproduced("messagepack", MessagePack);
}

const STALES: Life = Life { stale: Some(1_700_000_030_789), load_millis: 1_234, age_millis: Some(5_678), ..EXPIRES };
const AGELESS: Life = Life { age_millis: None, ..EXPIRES };

/// What version 1 has no room for: that a value turns stale, took time to load and had an age or an unknown one, and that
/// there is none.
fn version_2<C: Codec<User> + Copy>(name: &str, codec: C) {
    let envelope = Envelope::new(codec, Envelope::schema_tag("golden user"));
    let stale = envelope.seal(&user(), STALES, WRITE_ID).unwrap();
    let ageless = envelope.seal(&user(), AGELESS, WRITE_ID).unwrap();
    let absent = envelope.seal_absent(EXPIRES, WRITE_ID);
    for (what, record, meant) in [
        ("stale", stale, Opened::Value(user(), STALES)),
        ("ageless", ageless, Opened::Value(user(), AGELESS)),
        ("absent", absent, Opened::Absent(EXPIRES)),
    ] {
        let file = format!("v2-{name}-{what}.bin");
        let golden = golden(&file, &record);
        assert_eq!(envelope.open(&golden).unwrap(), meant, "{file} reads as something else");
        assert_eq!(golden, record, "{file} would be written otherwise now");
    }
}

#[test]
fn records_of_version_2() {
    version_2("bincode", Bincode);
    version_2("postcard", Postcard);
    version_2("json", Json);
    version_2("messagepack", MessagePack);
}

/// The schema tag stands in every record, so the function that makes it is part of the format.
#[test]
fn schema_tags_stay() {
    assert_eq!(Envelope::schema_tag("golden user"), 0x5A14_9A62);
    assert_eq!(Envelope::schema_tag(""), 0);
}

/// Both variants that no golden record holds are part of the format too.
#[test]
fn the_type_itself_round_trips() {
    for role in [Role::Guest, Role::Admin(vec![1, 2])] {
        let user = User { role, email: Some("z@example.org".into()), ..user() };
        let envelope = Envelope::new(Bincode, 1);
        let record = envelope.seal(&user, STAYS, 1).unwrap();
        assert_eq!(envelope.open(&record).unwrap(), Opened::Value(user, STAYS));
    }
}
