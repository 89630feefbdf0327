//! The program on a real Redis.

mod common;

use std::time::Duration;

use cache_core::{
    Clock as _, Entry, Expiry, Store as _, SystemClock, Ticket, Ttl, Write,
    backend::{Binding, Envelope},
    codec::{Compressed, Json, MessagePack},
};
use common::{assert_about, failure, json, run, run_with};
use integration_tests::{Certificates, RedisServer, free_port, key, living, never};
use serde_json::{Value, json};
use store_redis::RedisStore;

const HOUR: u64 = 3_600_000;

fn after(millis: u64) -> Expiry {
    Expiry::after(SystemClock.now(), Ttl::After(Duration::from_millis(millis)))
}

/// Writes what a namespace may hold: 13 keys, and one of another namespace.
async fn fill(server: &RedisServer) {
    let bincode: RedisStore<String> =
        RedisStore::builder(server.url()).namespace("users").schema("user/1").connect().await.unwrap();
    let json = RedisStore::<Vec<String>>::builder(server.url()).namespace("users").schema("names").codec(Json);
    let json = json.connect().await.unwrap();
    let zstd = RedisStore::<String>::builder(server.url()).namespace("users").schema("user/1");
    let zstd = zstd.codec(Compressed::new(MessagePack)).connect().await.unwrap();
    let (unconditional, owned) = (Ticket::unconditional(), str::to_owned);

    bincode.set(living(&key("plain"), owned("v"), Duration::from_millis(HOUR))).await.unwrap();
    let stale = Entry::new(owned("stale"), after(2 * HOUR)).fresh_until(Expiry::At(SystemClock.now()));
    let stale = stale.with_validator(Some("\"etag\"".into())).loaded_in(Duration::from_millis(250));
    bincode.set(Write::new(key(("acme", 42)), stale, unconditional)).await.unwrap();
    json.set(never(&key("json"), vec![owned("Ada")], unconditional)).await.unwrap();
    zstd.set(never(&key(&b"\xff\x1b"[..]), "x".repeat(5000), unconditional)).await.unwrap();
    let absent = Entry::absent(after(HOUR / 2));
    bincode.set(Write::new(key("absent"), absent, unconditional)).await.unwrap();
    bincode.lease_within(&key("lease"), Duration::from_secs(9)).await.unwrap();
    assert!(bincode.claim_within(&key("claim"), Duration::from_secs(9)).await.unwrap().granted);

    server.cli(&["SET", "users:foreign", "hello"]);
    server.cli(&["RPUSH", "users:list", "a"]);
    server.cli(&["SET", "users:", "7"]);
    server.cli(&["COPY", "users:plain", "users:copied"]);
    // Of an earlier run, and of a process that does not know the run.
    for (name, epoch) in [("earlier", 1), ("unbound", 0)] {
        let name = format!("users:{name}").into_bytes();
        let lease = Envelope::lease(Binding::new(&name, epoch), 5, 1000);
        server.raw(&[b"SET", &name, &lease]);
    }
    server.cli(&["SET", "users2:other", "hello"]);
}

/// All keys with their contents and expiries.
fn dump(server: &RedisServer) -> Vec<Vec<u8>> {
    let names =
        ["plain", "acme:42", "json", "absent", "lease", "claim", "foreign", "list", "", "copied", "earlier", "unbound"];
    let names = names.map(|name| format!("users:{name}").into_bytes());
    let names = names.into_iter().chain([b"users:\xff\x1b".to_vec(), b"users2:other".to_vec()]);
    let dump: Vec<Vec<u8>> =
        names.flat_map(|name| [server.raw(&[b"DUMP", &name]), server.raw(&[b"PEXPIRETIME", &name])]).collect();
    assert!(!dump.contains(&b"(nil)".to_vec()), "all keys are there");
    dump
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_summed_up_and_nothing_changes() {
    let server = RedisServer::start().await;
    fill(&server).await;
    let (url, before) = (server.url(), dump(&server));
    server.cli(&["CONFIG", "RESETSTAT"]);

    let report = json(&["namespace", &url, "-n", "users", "--list"]);
    assert_eq!(report["keys"], 13);
    assert_eq!(
        report["contents"],
        json!({
            "value": 4, "absence": 1, "lease": 3, "claim": 1, "undecodable": 1, "foreign": 2, "plain": 0, "counter": 1
        })
    );
    assert_eq!(
        report["states"],
        json!({"live": 7, "stale": 1, "expired": 0, "other_run": 2, "future": 0, "unreadable": 3})
    );
    assert_eq!(report["runs"], json!({"current": 7, "other": 1, "unbound": 1, "unknown": 0}));
    assert_eq!(
        report["codecs"],
        json!([
            {"id": 1, "name": "bincode", "keys": 3},
            {"id": 3, "name": "json", "keys": 1},
            {"id": 5, "name": "zstd", "keys": 1},
        ])
    );
    let versions = json!([{"version": 3, "keys": 9}]);
    assert_eq!(report["versions"], versions);
    let tag = |name| format!("{:08x}", Envelope::schema_tag(name));
    let schemas = report["schemas"].as_array().unwrap();
    assert!(schemas.contains(&json!({"tag": tag("names"), "keys": 1})), "{schemas:?}");
    let ttl = |below: u64, keys: u64| json!({"below_ms": below, "keys": keys});
    let buckets = report["ttl"]["buckets"].as_array().unwrap();
    // The lease and the claim; plain, copied and absent; the stale one.
    for bucket in [ttl(60_000, 2), ttl(HOUR, 3), ttl(24 * HOUR, 1)] {
        assert!(buckets.contains(&bucket), "{bucket} in {buckets:?}");
    }
    assert_eq!(report["ttl"]["does_not_expire"], 7);
    // Without the list.
    let mut sizes: Vec<u64> = dump_sizes(&server);
    sizes.sort_unstable();
    assert_eq!(sizes.len(), 12);
    assert_eq!(
        report["stored_bytes"],
        json!({"min": sizes[0], "median": sizes[5], "p99": sizes[11], "max": sizes[11], "total": sizes.iter().sum::<u64>()})
    );
    let scan = &report["scan"];
    assert_eq!((&scan["is_complete"], &scan["stopped_by"], &scan["gone"]), (&json!(true), &Value::Null, &json!(0)));
    assert_eq!(scan["read_bytes"], report["stored_bytes"]["total"]);
    // The oldest markers first.
    let markers: Vec<&Value> = report["markers"].as_array().unwrap().iter().map(|marker| &marker["key"]).collect();
    assert_eq!(markers.len(), 4);
    assert!(markers[..2].contains(&&json!("earlier")) && markers[..2].contains(&&json!("unbound")), "{markers:?}");
    let entries = report["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 13);
    let binary = entries.iter().find(|entry| entry["key_hex"] == "ff1b").unwrap();
    assert_eq!((&binary["key"], &binary["content"]), (&Value::Null, &json!("value")));
    for name in ["plain", "acme:42", "json", "absent", "lease", "claim", "copied", "earlier", "list", "foreign"] {
        json(&["key", &url, "-n", "users", name, "--payload"]);
    }

    let statistics = server.cli(&["INFO", "commandstats"]);
    let commands = statistics.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    let mut commands: Vec<&str> = commands.filter(|command| !command.starts_with("config")).collect();
    commands.sort_unstable();
    // STRLEN comes from this test as well.
    assert_eq!(commands, ["get", "info", "pttl", "scan", "strlen", "time"]);
    // No other command was tried: the only error is that of STRLEN on the list.
    let errors = server.cli(&["INFO", "errorstats"]);
    let errors = errors.lines().filter_map(|line| line.strip_prefix("errorstat_")?.split(':').next());
    assert_eq!(errors.collect::<Vec<_>>(), ["WRONGTYPE"]);
    assert_eq!(dump(&server), before);
}

/// The sizes of all keys of the namespace but the list.
fn dump_sizes(server: &RedisServer) -> Vec<u64> {
    let names: [&[u8]; 12] = [
        b"plain",
        b"acme:42",
        b"json",
        b"absent",
        b"lease",
        b"claim",
        b"foreign",
        b"",
        b"copied",
        b"earlier",
        b"unbound",
        b"\xff\x1b",
    ];
    let size = |name: &[u8]| server.raw(&[b"STRLEN", &[b"users:", name].concat()]);
    names.map(|name| String::from_utf8(size(name)).unwrap().parse().unwrap()).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_described() {
    let server = RedisServer::start().await;
    fill(&server).await;
    let url = server.url();
    let of = |arguments: &[&str]| json(&[&["key", &url, "--namespace", "users"], arguments].concat());

    let value = of(&["plain", "--payload"]);
    assert_eq!((&value["content"], &value["state"], &value["key"]), (&json!("value"), &json!("live"), &json!("plain")));
    assert_about(&value["ttl_ms"], HOUR + 1);
    let record = &value["record"];
    assert_about(&record["expires_in_ms"], HOUR);
    let now = value["server_time_ms"].as_u64().unwrap();
    assert_about(&record["created_ms"], now);
    assert_about(&json!(record["expires_ms"].as_u64().unwrap() - record["created_ms"].as_u64().unwrap()), HOUR);
    assert_eq!(record["codec"], json!({"id": 1, "name": "bincode"}));
    assert_eq!((&record["version"], &record["run"], &record["stale_ms"]), (&json!(3), &json!("current"), &Value::Null));
    let run_id = server.cli(&["INFO", "server"]);
    let run_id = run_id.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap();
    assert_eq!(record["epoch"], json!(format!("{:08x}", Binding::epoch_of(run_id))));
    let stored = server.raw(&[b"GET", b"users:plain"]);
    let at = |range: std::ops::Range<usize>| u64::from_le_bytes(stored[range].try_into().unwrap());
    assert_eq!(record["write_id"], json!(format!("{:016x}", at(Envelope::WRITE_ID))));
    assert_eq!(value["stored_bytes"], json!(stored.len()));
    // Bincode: a length of 8 bytes, and the text.
    assert_eq!(value["payload"], json!({"text": null, "hex": "010000000000000076", "left_out_bytes": 0}));
    assert_eq!(record["payload_bytes"], 9);
    assert_eq!(of(&["plain", "--payload=2"])["payload"], json!({"text": null, "hex": "0100", "left_out_bytes": 7}));
    assert_eq!(of(&["plain"])["payload"], Value::Null);

    let stale = of(&["acme", "42"]);
    assert_eq!((&stale["key"], &stale["state"]), (&json!("acme:42"), &json!("stale")));
    let record = &stale["record"];
    assert_eq!((&record["validator"], &record["load_ms"]), (&json!("\"etag\""), &json!(250)));
    assert_eq!((&record["stale_ms"], &record["stale_in_ms"]), (&record["created_ms"], &json!(0)));
    assert_eq!(of(&["acme:42"])["record"]["write_id"], record["write_id"]);

    let names = of(&["json", "--payload"]);
    assert_eq!(names["payload"], json!({"text": "[\"Ada\"]", "hex": null, "left_out_bytes": 0}));
    assert_eq!((&names["ttl_ms"], &names["record"]["expires_ms"]), (&Value::Null, &Value::Null));
    assert_eq!(names["record"]["schema"], json!(format!("{:08x}", Envelope::schema_tag("names"))));
    let zstd = of(&["ff1b", "--hex"]);
    assert_eq!((&zstd["key"], &zstd["record"]["codec"]["name"]), (&Value::Null, &json!("zstd")));

    let absent = of(&["absent"]);
    assert_eq!((&absent["content"], &absent["record"]["payload_bytes"]), (&json!("absence"), &json!(0)));
    for marker in ["lease", "claim"] {
        let found = of(&[marker]);
        assert_eq!((&found["content"], &found["record"]["codec"]), (&json!(marker), &Value::Null));
        assert_eq!(found["state"], "live");
        assert_about(&found["ttl_ms"], 9_001);
    }
    assert_eq!(
        (&of(&["earlier"])["state"], &of(&["earlier"])["record"]["run"]),
        (&json!("other_run"), &json!("other"))
    );
    assert_eq!(of(&["unbound"])["record"]["run"], "unbound");

    let copied = of(&["copied", "--payload"]);
    assert_eq!((&copied["content"], &copied["record"]), (&json!("undecodable"), &Value::Null));
    assert!(copied["reason"].as_str().unwrap().contains("belongs to another key"), "{copied}");
    assert_eq!(copied["payload"]["hex"].as_str().unwrap().len(), 2 * stored.len());
    let foreign = of(&["foreign", "--payload"]);
    assert_eq!((&foreign["content"], &foreign["payload"]["hex"]), (&json!("foreign"), &json!("68656c6c6f")));
    assert_eq!(of(&["list"])["reason"], "a list, a hash or another type that is no value");

    let missing = failure(1, &["key", &url, "-n", "users", "missing"]);
    assert_eq!(missing, "error: the namespace `users` of Redis has no such key\n");
    assert!(failure(1, &["key", &url, "-n", "users2", "plain"]).contains("no such key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_values_are_counted_and_shown() {
    let server = RedisServer::start().await;
    let store =
        RedisStore::<Vec<u8>>::builder(server.url()).namespace("n").codec(Json).plain().connect().await.unwrap();
    store.set(living(&key(1), vec![1, 2], Duration::from_millis(HOUR))).await.unwrap();
    store.set(never(&key(2), vec![3], Ticket::unconditional())).await.unwrap();
    let report = json(&["namespace", &server.url(), "-n", "n", "--plain"]);
    assert_eq!((&report["keys"], &report["contents"]["plain"]), (&json!(2), &json!(2)));
    assert_eq!(report["stored_bytes"]["total"], 8);
    assert_eq!(json(&["namespace", &server.url(), "-n", "n"])["contents"]["foreign"], 2);
    let one = json(&["key", &server.url(), "-n", "n", "1", "--plain", "--payload"]);
    assert_eq!((&one["content"], &one["payload"]["text"]), (&json!("plain"), &json!("[1,2]")));
    assert_about(&one["ttl_ms"], HOUR + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_hold_and_are_said() {
    let server = RedisServer::start().await;
    let store: RedisStore<u64> = RedisStore::builder(server.url()).namespace("n").connect().await.unwrap();
    let writes = |from: u64, to: u64| (from..to).map(|at| never(&key(at), at, Ticket::unconditional())).collect();
    for written in store.set_many(writes(0, 3000)).await {
        written.unwrap();
    }
    let url = server.url();
    let of = |arguments: &[&str]| json(&[&["namespace", &url, "-n", "n", "--pause", "0"], arguments].concat());
    let scan = |report: &Value| (report["keys"].as_u64().unwrap(), report["scan"]["stopped_by"].clone());
    server.cli(&["CONFIG", "RESETSTAT"]);
    let limited = of(&["--limit", "700"]);
    assert_eq!((scan(&limited), &limited["scan"]["is_complete"]), ((700, json!("limit")), &json!(false)));
    assert_eq!(server.calls(&["get"]), [700], "no more keys are read");
    assert_eq!(scan(&of(&["--limit", "3000"])), (3000, Value::Null));
    assert_eq!(scan(&of(&["--limit", "2999"])), (2999, json!("limit")));
    assert_eq!(scan(&of(&[])), (3000, Value::Null), "each key once");
    // A record has 50 bytes, and a request reads 250 keys.
    assert_eq!(scan(&of(&["--max-bytes", "1"])), (250, json!("max-bytes")));
    let visited = of(&["--max-visited", "1000"]);
    assert_eq!((&visited["scan"]["stopped_by"], &visited["scan"]["visited"]), (&json!("max-visited"), &json!(1000)));
    assert!((900..1200).contains(&visited["keys"].as_u64().unwrap()), "{visited}");
    // 7, 70..79, 700..799
    assert_eq!(scan(&of(&["--match", "7*", "--limit", "111"])), (111, Value::Null));
    assert_eq!(scan(&of(&["--match", "[12]?"])), (20, Value::Null));
    let text = run(&["namespace", &url, "-n", "n", "--limit", "10", "--pause", "0"]).out;
    assert!(text.contains("10, a sample: stopped by --limit, and there may be more keys\n"), "{text}");
    assert!(run(&["namespace", &url, "-n", "none"]).out.contains("0, all\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_are_read_one_by_one_and_foreign_ones_beyond_all_records_not_at_all() {
    let server = RedisServer::start_with(&["--proto-max-bulk-len", "64mb"]).await;
    let store: RedisStore<Vec<u8>> =
        RedisStore::builder(server.url()).namespace("n").timeout(Duration::from_secs(20)).connect().await.unwrap();
    let largest = vec![7; Envelope::MAX_PAYLOAD - 8];
    store.set(never(&key("largest"), largest, Ticket::unconditional())).await.unwrap();
    server.cli(&["SETRANGE", "n:larger", &(17 << 20).to_string(), "x"]);
    let report = json(&["namespace", &server.url(), "-n", "n"]);
    assert_eq!((&report["contents"]["value"], &report["contents"]["foreign"]), (&json!(1), &json!(1)));
    let largest = server.cli(&["STRLEN", "n:largest"]).parse::<u64>().unwrap();
    assert_eq!(report["scan"]["read_bytes"], largest);
    assert_eq!(report["stored_bytes"]["max"], (17 << 20) + 1);
}

/// The permissions that the README lists.
fn documented_permissions() -> Vec<&'static str> {
    let block = include_str!("../README.md").split("```").find(|block| block.starts_with("text\n+")).unwrap();
    block.split_whitespace().filter(|word| word.starts_with('+')).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_permissions_suffice_and_are_needed() {
    let server = RedisServer::start().await;
    fill(&server).await;
    let permissions = documented_permissions();
    let set_user = |permissions: &[&str]| {
        let user = ["ACL", "SETUSER", "viewer", "reset", "on", ">s3cret", "~users:*"];
        assert_eq!(server.cli(&[&user, permissions].concat()), "OK");
    };
    set_user(&permissions);
    let url = server.url_as("viewer:s3cret", "");
    assert_eq!(json(&["namespace", &url, "-n", "users"])["keys"], 13);
    assert_eq!(json(&["key", &url, "-n", "users", "plain"])["record"]["run"], "current");
    for left_out in permissions.iter().filter(|permission| **permission != "+info") {
        let rest: Vec<&str> = permissions.iter().copied().filter(|permission| permission != left_out).collect();
        set_user(&rest);
        let message = failure(1, &["namespace", &url, "-n", "users"]);
        assert!(message.contains("lacks a permission") && message.contains(&left_out[1..]), "{message}");
    }
    let rest: Vec<&str> = permissions.into_iter().filter(|permission| *permission != "+info").collect();
    set_user(&rest);
    let record = json(&["key", &url, "-n", "users", "plain"]);
    assert_eq!((&record["record"]["run"], &record["state"]), (&json!("unknown"), &json!("live")));
    assert!(run(&["namespace", &url, "-n", "users"]).out.contains("other runs    unknown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_what_to_do_and_show_no_password() {
    let server = RedisServer::start_with(&["--requirepass", "right"]).await;
    let url = |login: &str| server.url_as(login, "");
    let of = |code: i32, url: &str| failure(code, &["key", url, "-n", "n", "k", "--timeout", "0.5"]);
    assert!(of(1, &url(":s3cret")).contains("refused the credentials"));
    assert!(of(1, &url("s3cret:s3cret")).contains("refused the credentials"));
    assert!(of(1, &server.url()).contains("refused the credentials"));
    assert!(of(1, &url(":right")).contains("no such key"));
    let closed = format!("redis://:s3cret@127.0.0.1:{}/", free_port());
    assert!(of(1, &closed).contains("refused the connection"));
    assert!(of(1, "unix:///nowhere/s.sock?pass=s3cret").contains("check the path of the socket"));
    assert!(of(2, "redis://:s3cret@127.0.0.1:x/").contains("URL is invalid"));
    assert!(of(2, "redis://:s3cret@127.0.0.1/db").contains("URL is invalid"));
    assert!(of(2, "redsi://:s3cret@127.0.0.1/").contains("there is no URL"));
    assert!(failure(2, &["namespace", &url(":right"), &url(":s3cret"), "-n", "n"]).contains("no other argument"));
    assert!(
        failure(2, &["namespace", &url(":right"), "-n", "n", "--limit", &url(":s3cret")]).contains("invalid value")
    );
    assert!(failure(2, &["key", &url(":right"), "-n", "a:b", "k"]).contains("namespace"));
    assert!(failure(2, &["key", &url(":right"), "-n", "n"]).contains("there is no key"));
    assert_eq!(run(&["key"]).code, 2);

    server.stop();
    assert!(of(1, &url(":right")).contains("within 500ms"));
    server.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_url_may_come_from_the_environment_and_name_a_socket_or_a_database() {
    let server = RedisServer::start_with(&["--unixsocket", "{dir}/redis.sock"]).await;
    let store = RedisStore::<String>::builder(server.url_as(":", "3")).namespace("n");
    let store = store.connect().await.unwrap();
    store.set(never(&key("redis://k"), "v".to_owned(), Ticket::unconditional())).await.unwrap();
    store.set(never(&key(-7), "v".to_owned(), Ticket::unconditional())).await.unwrap();
    let socket = format!("unix://{}/redis.sock?db=3", server.directory().display());
    for url in [server.url_as(":", "3"), socket] {
        let ran = run_with(Some(&url), &["key", "-n", "n", "-7", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let ran = run_with(Some(&url), &["namespace", "-n", "n", "--json"]);
        let report: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(report["keys"], 2);
    }
    // The argument decides.
    let other = server.url();
    let ran = run_with(Some(&server.url_as(":", "3")), &["namespace", &other, "-n", "n", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["keys"], 0);
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_checked_against_the_file() {
    let (certificates, port) = (Certificates::new(), free_port());
    let path = |file: &str| certificates.path(file).to_str().unwrap().to_owned();
    let (certificate, secret, authority) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let arguments = ["--tls-port", &port.to_string(), "--tls-auth-clients", "no"];
    let files = ["--tls-cert-file", &certificate, "--tls-key-file", &secret, "--tls-ca-cert-file", &authority];
    let server = RedisServer::start_with(&[&arguments[..], &files].concat()).await;
    server.cli(&["SET", "n:k", "hello"]);
    let url = format!("rediss://127.0.0.1:{port}/");
    assert_eq!(json(&["key", &url, "-n", "n", "k", "--ca-file", &authority])["content"], "foreign");
    for other in [&["--ca-file", &path("other.crt")][..], &[]] {
        let message = failure(1, &[&["key", &url, "-n", "n", "k"], other].concat());
        assert!(message.contains("--ca-file"), "{message}");
    }
    assert!(failure(2, &["key", &url, "-n", "n", "k", "--ca-file", "/nowhere"]).contains("cannot be read"));
    assert!(failure(2, &["key", &server.url(), "-n", "n", "k", "--ca-file", &authority]).contains("rediss://"));
}
