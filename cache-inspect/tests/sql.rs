//! The program on real databases.

mod common;

use std::{fs, path::Path, time::Duration};

use cache_core::{
    Clock as _, Entry, Expiry, Store as _, SystemClock, Ticket, Ttl, Write,
    backend::Envelope,
    codec::{Compressed, Json, MessagePack},
};
use common::{assert_about, failure, json, run};
use integration_tests::{
    MariaDb, Postgres, SqlKind, SqlPlace, eventually, free_port, key, living, never, on_each_database,
};
use serde_json::{Value, json};

on_each_database!(
    a_namespace_is_summed_up_and_nothing_changes,
    a_key_is_described,
    the_limits_hold_and_are_said,
    tables_that_are_none_of_a_cache_are_said,
    wrong_urls_show_no_password,
);

const HOUR: u64 = 3_600_000;

fn after(millis: u64) -> Expiry {
    Expiry::after(SystemClock.now(), Ttl::After(Duration::from_millis(millis)))
}

fn backend(place: &SqlPlace) -> &'static str {
    match place.kind {
        SqlKind::MySql => "MySQL",
        SqlKind::Postgres => "PostgreSQL",
        SqlKind::Sqlite => "SQLite",
    }
}

/// A key that is stored under its digest.
fn long() -> String {
    "k".repeat(300)
}

/// Writes what a namespace may hold: 11 rows, and one of another namespace.
async fn fill(place: &SqlPlace) {
    let bincode = place.builder::<String>().schema("user/1").connect().await.unwrap();
    let json = place.builder::<Vec<String>>().schema("names").codec(Json).connect().await.unwrap();
    let zstd = place.builder::<String>().schema("user/1").codec(Compressed::new(MessagePack)).connect().await.unwrap();
    let (unconditional, owned) = (Ticket::unconditional(), str::to_owned);

    bincode.set(living(&key("plain"), owned("v"), Duration::from_millis(HOUR))).await.unwrap();
    let stale = Entry::new(owned("stale"), after(2 * HOUR)).fresh_until(Expiry::At(SystemClock.now()));
    let stale = stale.with_validator(Some("\"etag\"".into())).loaded_in(Duration::from_millis(250));
    bincode.set(Write::new(key(("acme", 42)), stale, unconditional)).await.unwrap();
    bincode.set(never(&key(long()), owned("long"), unconditional)).await.unwrap();
    json.set(never(&key("json"), vec![owned("Ada")], unconditional)).await.unwrap();
    zstd.set(never(&key(&b"\xff\x1b"[..]), "x".repeat(5000), unconditional)).await.unwrap();
    let absent = Entry::absent(after(HOUR / 2));
    bincode.set(Write::new(key("absent"), absent, unconditional)).await.unwrap();
    bincode.lease_within(&key("lease"), Duration::from_secs(9)).await.unwrap();
    assert!(bincode.claim_within(&key("claim"), Duration::from_secs(9)).await.unwrap().granted);

    let row = |namespace: &str, id: &str, value: &str, expires: &str| {
        format!(
            "INSERT INTO {{t}} VALUES ('{namespace}', {}, NULL, {value}, 7, 0, {expires});",
            place.bytes(id.as_bytes())
        )
    };
    let hello = place.bytes(b"hello");
    place.execute(&row("n", "foreign", &hello, "NULL")).await;
    place.execute(&row("n", "expired", &hello, "1000")).await;
    place.execute(&row("other", "other", &hello, "NULL")).await;
    let (from, to) = (place.bytes(b"plain"), place.bytes(b"copied"));
    place
        .execute(&format!(
            "INSERT INTO {{t}} SELECT namespace, {to}, NULL, value, write_id, written_at, expires_at FROM {{t}} WHERE id = {from}"
        ))
        .await;
}

/// Figures that any change of the table would change.
async fn dump(place: &SqlPlace) -> Vec<Option<i64>> {
    let mut figures = Vec::new();
    let length = if place.kind == SqlKind::Postgres { "octet_length" } else { "length" };
    for figure in [
        "COUNT(*)".to_owned(),
        "SUM(written_at)".to_owned(),
        "SUM(expires_at)".to_owned(),
        "SUM(write_id % 1000003)".to_owned(),
        format!("SUM({length}(value))"),
        format!("SUM({length}(id))"),
    ] {
        let integer = if place.kind == SqlKind::MySql { "SIGNED" } else { "BIGINT" };
        figures.push(place.number(&format!("SELECT CAST({figure} AS {integer}) FROM {{t}}")).await);
    }
    assert_eq!(figures[0], Some(12));
    figures
}

async fn a_namespace_is_summed_up_and_nothing_changes(place: SqlPlace) {
    fill(&place).await;
    let before = dump(&place).await;
    let report = json(&["namespace", &place.url, "--table", &place.table, "-n", "n", "--list"]);
    assert_eq!((&report["backend"], &report["keys"]), (&json!(backend(&place)), &json!(11)));
    assert_eq!(
        report["contents"],
        json!({
            "value": 5, "absence": 1, "lease": 1, "claim": 1, "undecodable": 1, "foreign": 2, "plain": 0, "counter": 0
        })
    );
    assert_eq!(
        report["states"],
        json!({"live": 7, "stale": 1, "expired": 0, "other_run": 0, "future": 0, "unreadable": 3})
    );
    assert_eq!(report["runs"], Value::Null);
    assert_eq!(
        report["codecs"],
        json!([
            {"id": 1, "name": "bincode", "keys": 4},
            {"id": 3, "name": "json", "keys": 1},
            {"id": 5, "name": "zstd", "keys": 1},
        ])
    );
    assert_eq!(report["versions"], json!([{"version": 3, "keys": 8}]));
    let ttl = |below: u64, keys: u64| json!({"below_ms": below, "keys": keys});
    let buckets = report["ttl"]["buckets"].as_array().unwrap();
    for bucket in [ttl(1, 1), ttl(60_000, 2), ttl(HOUR, 3), ttl(24 * HOUR, 1)] {
        assert!(buckets.contains(&bucket), "{bucket} in {buckets:?}");
    }
    assert_eq!(report["ttl"]["does_not_expire"], 4);
    let length = if place.kind == SqlKind::Postgres { "octet_length" } else { "length" };
    let integer = if place.kind == SqlKind::MySql { "SIGNED" } else { "BIGINT" };
    let total = format!("SELECT CAST(SUM({length}(value)) AS {integer}) FROM {{t}} WHERE namespace = 'n'");
    assert_eq!(report["stored_bytes"]["total"].as_i64(), place.number(&total).await);
    assert_eq!((&report["stored_bytes"]["min"], &report["stored_bytes"]["median"]), (&json!(0), &json!(49)));
    assert_eq!(report["scan"]["visited"], 11);
    assert_eq!((&report["scan"]["is_complete"], &report["scan"]["gone"]), (&json!(true), &json!(0)));
    let markers = report["markers"].as_array().unwrap();
    assert_eq!(markers.len(), 2);
    assert_about(&markers[0]["ttl_ms"], 9_000);
    assert_about(&markers[0]["age_ms"], 59_999);
    let entries = report["entries"].as_array().unwrap();
    assert!(entries.iter().any(|entry| entry["key"] == json!(long())), "the key and not its digest");
    let matching = json(&["namespace", &place.url, "--table", &place.table, "-n", "n", "--match", "*[ln]ai?"]);
    assert_eq!((&matching["keys"], &matching["markers"][0]["key"]), (&json!(2), &json!("claim")));
    assert_eq!(json(&["namespace", &place.url, "--table", &place.table, "-n", "none"])["keys"], 0);
    assert_eq!(dump(&place).await, before);
}

async fn a_key_is_described(place: SqlPlace) {
    fill(&place).await;
    let before = dump(&place).await;
    let at = ["key", &place.url, "--table", &place.table, "--namespace", "n"];
    let of = |arguments: &[&str]| json(&[&at, arguments].concat());

    let value = of(&["plain", "--payload"]);
    assert_eq!((&value["content"], &value["state"], &value["key"]), (&json!("value"), &json!("live"), &json!("plain")));
    assert_about(&value["ttl_ms"], HOUR);
    let record = &value["record"];
    assert_about(&record["expires_in_ms"], HOUR);
    assert_about(&record["created_ms"], value["server_time_ms"].as_u64().unwrap());
    let write_id = place.number(&format!("SELECT write_id FROM {{t}} WHERE id = {}", place.bytes(b"plain"))).await;
    assert_eq!(record["write_id"], json!(format!("{:016x}", write_id.unwrap())));
    assert_eq!((&record["epoch"], &record["run"]), (&Value::Null, &Value::Null));
    assert_eq!(value["payload"], json!({"text": null, "hex": "010000000000000076", "left_out_bytes": 0}));
    assert_eq!(value["stored_bytes"], 51);

    let stale = of(&["acme", "42"]);
    assert_eq!((&stale["key"], &stale["state"]), (&json!("acme:42"), &json!("stale")));
    assert_eq!((&stale["record"]["validator"], &stale["record"]["load_ms"]), (&json!("\"etag\""), &json!(250)));
    assert_eq!(of(&[&long(), "--payload"])["payload"]["hex"], "04000000000000006c6f6e67");
    assert_eq!(of(&["json", "--payload"])["payload"]["text"], "[\"Ada\"]");
    assert_eq!(of(&["json"])["record"]["schema"], json!(format!("{:08x}", Envelope::schema_tag("names"))));
    assert_eq!(of(&["ff1b", "--hex"])["record"]["codec"]["name"], "zstd");
    assert_eq!(of(&["absent"])["content"], "absence");
    for marker in ["lease", "claim"] {
        let found = of(&[marker]);
        assert_eq!((&found["content"], &found["record"]["codec"]), (&json!(marker), &Value::Null));
        assert_about(&found["ttl_ms"], 9_000);
        assert_about(&found["record"]["created_ms"], found["server_time_ms"].as_u64().unwrap());
    }
    assert!(of(&["copied"])["reason"].as_str().unwrap().contains("belongs to another key"));
    assert_eq!(of(&["foreign", "--payload"])["payload"]["hex"], "68656c6c6f");
    assert_eq!(of(&["expired"])["ttl_ms"], 0);
    let missing = failure(1, &[&at[..], &["missing"]].concat());
    assert_eq!(missing, format!("error: the namespace `n` of {} has no such key\n", backend(&place)));
    assert!(failure(1, &[&at[..], &[&"k".repeat(301)]].concat()).contains("no such key"));
    let text = run(&[&at[..], &["json", "--payload"]].concat()).out;
    assert!(text.contains("\npayload       [\"Ada\"]\n"), "{text}");
    assert_eq!(dump(&place).await, before);
}

async fn the_limits_hold_and_are_said(place: SqlPlace) {
    let store = place.store::<u64>().await;
    let writes = (0_u64..1200).map(|at| never(&key(at), at, Ticket::unconditional())).collect();
    for written in store.set_many(writes).await {
        written.unwrap();
    }
    let at = ["namespace", &place.url, "--table", &place.table, "-n", "n", "--pause", "0"];
    let of = |arguments: &[&str]| json(&[&at, arguments].concat());
    let scan = |report: &Value| (report["keys"].as_u64().unwrap(), report["scan"]["stopped_by"].clone());
    assert_eq!(scan(&of(&["--limit", "700"])), (700, json!("limit")));
    assert_eq!(scan(&of(&["--limit", "1200"])), (1200, Value::Null));
    assert_eq!(scan(&of(&["--limit", "1199"])), (1199, json!("limit")));
    assert_eq!(scan(&of(&["--max-bytes", "1"])), (250, json!("max-bytes")));
    assert_eq!(scan(&of(&["--max-visited", "1000"])), (1000, json!("max-visited")));
    assert_eq!(scan(&of(&["--max-visited", "1200"])), (1200, Value::Null));
    assert_eq!(scan(&of(&["--match", "7*"])), (111, Value::Null));
}

async fn tables_that_are_none_of_a_cache_are_said(place: SqlPlace) {
    // SQLite only opens a file that exists.
    place.execute("CREATE TABLE {t} (namespace VARCHAR(64), id VARCHAR(64))").await;
    let of = |table: &str| failure(1, &["key", &place.url, "--table", table, "-n", "n", "k"]);
    assert!(of(&place.table).contains("other columns"), "{}", of(&place.table));
    assert!(of("missing").contains("does not exist"), "{}", of("missing"));
    place.execute("DROP TABLE {t}").await;
    let columns = "namespace, id, full_key, write_id, written_at, expires_at, value".replace(',', " VARCHAR(64),");
    place.execute(&format!("CREATE TABLE {{t}} ({columns} VARCHAR(64))")).await;
    place.execute("INSERT INTO {t} VALUES ('n', 'k', NULL, 'x', 'x', 'x', 's3cret')").await;
    // PostgreSQL refuses to compare the types, and the driver of MySQL to convert them. In SQLite, a text
    // is no key.
    let message = of(&place.table);
    let expected = if place.kind == SqlKind::Sqlite { "no such key" } else { "other columns" };
    assert!(message.contains(expected), "{message}");
    let message = failure(2, &["key", &place.url, "--table", "a\"b", "-n", "n", "k"]);
    assert!(message.contains("name of the table"), "{message}");
    let message = failure(2, &["key", &place.url, "--plain", "-n", "n", "k"]);
    assert!(message.contains("--plain is for Redis"), "{message}");
}

async fn wrong_urls_show_no_password(place: SqlPlace) {
    let of = |code: i32, url: &str| failure(code, &["namespace", url, "-n", "n", "--timeout", "0.5"]);
    let port = free_port();
    match place.kind {
        SqlKind::MySql | SqlKind::Postgres => {
            let place_url = &place.url;
            let wrong = place_url.replace("hunter2", "s3cret");
            // PostgreSQL trusts local users.
            if place.kind == SqlKind::MySql {
                assert!(of(1, &wrong).contains("refused the user, the password or the permission"));
            }
            let (scheme, rest) = wrong.split_once("://").unwrap();
            let (login, place) = rest.split_once('@').unwrap();
            let (_, name) = place.split_once('/').unwrap();
            let closed = format!("{scheme}://{login}@127.0.0.1:{port}/{name}");
            assert!(of(1, &closed).contains("refused the connection"), "{}", of(1, &closed));
            let missing = of(1, &place_url.replace(&format!("/{name}"), "/missing"));
            assert!(missing.contains("no database of this name"), "{missing}");
            assert!(of(2, &format!("{scheme}://{login}@127.0.0.1:x/")).contains("is invalid"));
        }
        SqlKind::Sqlite => {
            assert!(of(1, &place.url).contains("cannot open the file"), "{}", of(1, &place.url));
            let file = place.url.strip_prefix("sqlite://").unwrap();
            assert!(!Path::new(file).exists(), "nothing is created");
            fs::write(file, "s3cret".repeat(1000)).unwrap();
            assert!(of(1, &place.url).contains("not a SQLite database"), "{}", of(1, &place.url));
            assert!(of(2, "sqlite://:memory:").contains("in memory"));
            assert!(of(2, "sqlite://f?mode=s3cret").contains("is invalid"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_mysql_needs_select_alone() {
    let server = MariaDb::start().await;
    let place = SqlPlace::of(SqlKind::MySql).await;
    let store = store_sql::SqlStore::<String>::builder(server.url()).namespace("n").create_table();
    let store = store.connect().await.unwrap();
    store.set(never(&key("k"), "v".to_owned(), Ticket::unconditional())).await.unwrap();
    drop(place);
    server.sql("CREATE USER viewer@'127.0.0.1' IDENTIFIED BY 's3cret'").await;
    let url = server.url_as("viewer:s3cret", "cache");
    assert!(failure(1, &["namespace", &url, "-n", "n"]).contains("refused the user"));
    server.sql("GRANT SELECT ON cache.cache_entries TO viewer@'127.0.0.1'").await;
    assert_eq!(json(&["namespace", &url, "-n", "n"])["keys"], 1);
    // A read that writes is refused.
    server.sql("CREATE TABLE written (number BIGINT)").await;
    server.sql("CREATE FUNCTION written() RETURNS BIGINT BEGIN INSERT INTO written VALUES (1); RETURN 1; END").await;
    server.sql("CREATE VIEW view_that_writes AS SELECT * FROM cache_entries WHERE written() = 1").await;
    let of_view = ["namespace", &server.url(), "-n", "n", "--table", "view_that_writes"];
    assert!(failure(1, &of_view).contains("error 1792"), "{}", failure(1, &of_view));
    server.stop();
    assert!(failure(1, &["namespace", &url, "-n", "n", "--timeout", "0.5"]).contains("within 500ms"));
    server.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_postgres_needs_select_alone() {
    let server = Postgres::start().await;
    let store = store_sql::SqlStore::<String>::builder(server.url()).namespace("n").create_table();
    let store = store.connect().await.unwrap();
    store.set(never(&key("k"), "v".to_owned(), Ticket::unconditional())).await.unwrap();
    server.sql("CREATE ROLE viewer LOGIN PASSWORD 's3cret'").await;
    let url = server.url_as("viewer:s3cret", "postgres");
    assert!(failure(1, &["namespace", &url, "-n", "n"]).contains("refused the user"));
    server.sql("GRANT SELECT ON cache_entries TO viewer").await;
    assert_eq!(json(&["namespace", &url, "-n", "n"])["keys"], 1);
    // A read that writes is refused.
    server.sql("CREATE SEQUENCE written").await;
    server.sql("CREATE VIEW view_that_writes AS SELECT * FROM cache_entries WHERE nextval('written') > 0").await;
    let of_view = ["namespace", &server.url(), "-n", "n", "--table", "view_that_writes"];
    assert!(failure(1, &of_view).contains("error 25006"), "{}", failure(1, &of_view));
    server.stop();
    assert!(failure(1, &["namespace", &url, "-n", "n", "--timeout", "0.5"]).contains("within 500ms"));
    server.resume();
}

/// With and without a store that is connected: in mode WAL, SQLite needs its files beside the
/// database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_sqlite_stays_as_it_is() {
    let place = SqlPlace::of(SqlKind::Sqlite).await;
    fill(&place).await;
    let file = place.url.strip_prefix("sqlite://").unwrap();
    let wal = format!("{file}-wal");
    // The pools of the stores close their connections in the background.
    eventually("the last connection closes", async || (!Path::new(&wal).exists()).then_some(())).await;
    let before = fs::read(file).unwrap();
    let keys = || json(&["namespace", &place.url, "--table", &place.table, "-n", "n"])["keys"].clone();
    assert_eq!(keys(), 11);
    assert!(fs::read(file).unwrap() == before, "the file has changed");

    let store = place.store::<String>().await;
    store.set(never(&key("new"), "v".to_owned(), Ticket::unconditional())).await.unwrap();
    let before = [fs::read(file).unwrap(), fs::read(&wal).unwrap()];
    assert_eq!(keys(), 12);
    assert!([fs::read(file).unwrap(), fs::read(&wal).unwrap()] == before, "a file has changed");
    store.set(never(&key("newer"), "v".to_owned(), Ticket::unconditional())).await.unwrap();
    assert_eq!(keys(), 13);
}
