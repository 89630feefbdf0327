//! Encrypted and compressed values in Redis and in SQLite.

use std::time::Duration;

use cache_chain::ChainCache;
use cache_core::{
    Codec, ErrorKind, Result, Store as _, Ticket,
    backend::{Binding, Envelope, Life},
    codec::{Compressed, Encrypted, EncryptionKey, Json, KeyRing},
};
use integration_tests::{RedisServer, SqlKind, SqlPlace, key, living, never, value};
use store_redis::{RedisConnection, RedisStore};
use store_sql::SqlStore;

const HOUR: Duration = Duration::from_secs(3600);
const HEADER: usize = 42;

type Protected = Encrypted<Compressed<Json>>;

fn codec() -> Protected {
    codec_with(1, &[])
}

/// The codec with this key, and others that only decrypt.
fn codec_with(current: u8, decrypt_only: &[u8]) -> Protected {
    let key = |id: u8| EncryptionKey::new(id.into(), &[id; 32]);
    let keys = KeyRing::new(key(current), decrypt_only.iter().map(|&id| key(id))).unwrap();
    Encrypted::new(Compressed::new(Json), keys)
}

async fn records(server: &RedisServer, codec: Protected) -> RedisStore<String, Protected> {
    RedisStore::builder(server.url()).namespace("users").schema("text").codec(codec).connect().await.unwrap()
}

async fn plain<C: Codec<String>>(server: &RedisServer, codec: C) -> RedisStore<String, C> {
    RedisStore::builder(server.url()).namespace("users").codec(codec).plain().connect().await.unwrap()
}

fn secret() -> String {
    "a secret of the user's ".repeat(200)
}

fn is_readable(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|window| window == b"secret")
}

fn is_refused<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Codec)
}

/// Writes bytes as the payload of a record of an encrypted value, as any program may.
struct Forge;

impl Codec<Vec<u8>> for Forge {
    const ID: u8 = <Protected as Codec<String>>::ID;

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }
}

#[tokio::test]
async fn redis_holds_no_plain_bytes() {
    let server = RedisServer::start().await;
    let store = records(&server, codec()).await;
    store.set(living(&key(1), secret(), HOUR)).await.unwrap();
    let record = server.raw(&[b"GET", b"users:1"]);
    assert!(!is_readable(&record) && record.len() < 300, "{} bytes", record.len());
    assert_eq!(value(&store, &key(1)).await, Some(secret()));
    let ticket = store.lease(&key(2)).await.unwrap();
    assert!(store.fill(never(&key(2), secret(), ticket)).await.unwrap());
    assert!(!is_readable(&server.raw(&[b"GET", b"users:2"])));
    assert_eq!(store.take(&key(2)).await.unwrap().unwrap().into_value(), Some(secret()));

    let store = plain(&server, codec()).await;
    store.set(living(&key(3), secret(), HOUR)).await.unwrap();
    let bytes = server.raw(&[b"GET", b"users:3"]);
    assert!(!is_readable(&bytes) && bytes.len() < 300, "{} bytes", bytes.len());
    assert_eq!(value(&store, &key(3)).await, Some(secret()));
    assert_eq!(store.take(&key(3)).await.unwrap().unwrap().into_value(), Some(secret()));
}

/// `COPY` alone is refused by the checksum of the record, which anybody can calculate.
#[tokio::test]
async fn a_record_that_is_forged_for_another_key_is_not_served() {
    let server = RedisServer::start().await;
    let store = records(&server, codec()).await;
    store.set(never(&key(1), secret(), Ticket::unconditional())).await.unwrap();
    let record = server.raw(&[b"GET", b"users:1"]);
    let forge = |name: &[u8]| {
        let envelope = Envelope::new(Forge, Envelope::schema_tag("text"));
        let created = u64::from_le_bytes(record[Envelope::CREATED].try_into().unwrap());
        let binding = Binding::new(name, Envelope::epoch(&record).unwrap());
        let forged = envelope.seal(binding, &record[HEADER..].to_vec(), Life::new(created, None), 7).unwrap();
        server.raw(&[b"SET", name, &forged]);
    };
    forge(b"users:1");
    assert_eq!(value(&store, &key(1)).await, Some(secret()), "a header can be forged");
    forge(b"users:2");
    let error = store.get(&key(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("moved from another name"), "{error}");
    let found = store.get_many(&[key(1), key(2)]).await;
    assert!(found[0].is_ok() && is_refused(&found[1]));
    assert!(is_refused(&store.take(&key(2)).await));
    // A chain counts it as a miss, and replaces it.
    forge(b"users:2");
    let chain = ChainCache::builder().tier(store.clone()).build().unwrap();
    assert_eq!(chain.get(2).await.unwrap(), None);
    chain.set(2, "new".to_owned()).await.unwrap();
    assert_eq!(chain.get(2).await.unwrap().as_deref(), Some("new"));
}

#[tokio::test]
async fn a_plain_value_that_is_copied_to_another_key_is_not_served() {
    let server = RedisServer::start().await;
    let store = plain(&server, codec()).await;
    store.set(living(&key(1), secret(), HOUR)).await.unwrap();
    server.cli(&["COPY", "users:1", "users:2"]);
    assert_eq!(value(&store, &key(1)).await, Some(secret()));
    assert!(is_refused(&store.get(&key(2)).await));
    let found = store.get_many(&[key(2), key(1)]).await;
    assert!(is_refused(&found[0]) && found[1].is_ok());
    assert!(is_refused(&store.take(&key(2)).await));
    // Also not in another namespace.
    let orders: RedisStore<String, _> =
        RedisStore::builder(server.url()).namespace("orders").codec(codec()).plain().connect().await.unwrap();
    server.cli(&["COPY", "users:1", "orders:1"]);
    assert!(is_refused(&orders.get(&key(1)).await));

    // Without encryption it is served.
    let store = plain(&server, Compressed::new(Json)).await;
    store.set(living(&key(1), secret(), HOUR)).await.unwrap();
    server.cli(&["COPY", "users:1", "users:2", "REPLACE"]);
    assert_eq!(value(&store, &key(2)).await, Some(secret()));
}

#[tokio::test]
async fn processes_with_old_and_new_keys_share_values() {
    let server = RedisServer::start().await;
    let (prepared, rotated) =
        (records(&server, codec_with(1, &[2])).await, records(&server, codec_with(2, &[1])).await);
    prepared.set(living(&key(1), "old".to_owned(), HOUR)).await.unwrap();
    rotated.set(living(&key(2), "new".to_owned(), HOUR)).await.unwrap();
    for store in [&prepared, &rotated] {
        assert_eq!(value(store, &key(1)).await.as_deref(), Some("old"));
        assert_eq!(value(store, &key(2)).await.as_deref(), Some("new"));
    }
    let after = records(&server, codec_with(2, &[])).await;
    assert_eq!(value(&after, &key(2)).await.as_deref(), Some("new"));
    let error = after.get(&key(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("encrypted with key 1, which is not in the key ring"), "{error}");
}

#[tokio::test]
async fn a_row_that_is_moved_to_another_namespace_is_not_served() {
    async fn store<C: Codec<String>>(place: &SqlPlace, namespace: &str, codec: C) -> SqlStore<String, C> {
        place.builder().namespace(namespace).codec(codec).connect().await.unwrap()
    }
    let place = SqlPlace::of(SqlKind::Sqlite).await;
    let (users, orders) = (store(&place, "users", codec()).await, store(&place, "orders", codec()).await);
    users.set(never(&key(1), secret(), Ticket::unconditional())).await.unwrap();
    let secrets = format!("SELECT COUNT(*) FROM {{t}} WHERE instr(value, {}) > 0", place.bytes(b"secret"));
    assert_eq!(place.number(&secrets).await, Some(0));
    assert_eq!(value(&users, &key(1)).await, Some(secret()));
    place.execute("UPDATE {t} SET namespace = 'orders'").await;
    let error = orders.get(&key(1)).await.unwrap_err();
    assert!(error.to_string().contains("moved from another name"), "{error}");

    // Without encryption it is served.
    let (users, orders) = (store(&place, "users", Json).await, store(&place, "orders", Json).await);
    place.execute("DELETE FROM {t}").await;
    users.set(never(&key(1), secret(), Ticket::unconditional())).await.unwrap();
    assert_eq!(place.number(&secrets).await, Some(1));
    place.execute("UPDATE {t} SET namespace = 'orders'").await;
    assert_eq!(value(&orders, &key(1)).await, Some(secret()));
}

/// One codec serves several stores.
#[tokio::test]
async fn redis_and_sql_share_a_key_ring() {
    let server = RedisServer::start().await;
    let redis = RedisConnection::builder(server.url()).connect().await.unwrap();
    let place = SqlPlace::of(SqlKind::Sqlite).await;
    let codec = codec();
    let near: RedisStore<String, _> =
        RedisStore::builder_on(&redis).namespace("users").codec(codec.clone()).build().unwrap();
    let far: SqlStore<String, _> = place.builder().namespace("users").codec(codec).connect().await.unwrap();
    let chain = ChainCache::builder().tier(near.clone()).tier(far.clone()).build().unwrap();
    chain.set(1, secret()).await.unwrap();
    assert_eq!(value(&near, &key(1)).await, Some(secret()));
    near.del(&key(1)).await.unwrap();
    assert_eq!(chain.get(1).await.unwrap(), Some(secret()));
    chain.wait().await.unwrap();
    assert_eq!(value(&near, &key(1)).await, Some(secret()));
}
