//! `explain` over stores that keep records.

use std::{io, time::Duration};

use cache_chain::{
    Action, ChainCache, Content, ErrorKind, Explanation, Held, Inspection, Tier, Ttl, quick_cache::QuickCacheStore,
};
use cache_core::{Entry, Expiry, Result, Store, Ticket, Write, backend::Envelope};
use integration_tests::{RedisServer, SqlKind, SqlPlace, key};
use store_redis::RedisStore;

const HOUR: Duration = Duration::from_secs(3600);

fn below(explanation: &Explanation) -> (&Held, Option<&Inspection>) {
    let tier = explanation.tiers.last().unwrap();
    (&tier.held, tier.stored.as_ref())
}

fn chain_on(store: impl Store<Value = String>) -> ChainCache<String> {
    ChainCache::builder()
        .tier(Tier::new(QuickCacheStore::new(100).unwrap()).name("memory"))
        .tier(Tier::new(store).name("below"))
        .build()
        .unwrap()
}

/// Checks what all stores of records tell.
async fn check_records(store: impl Store<Value = String> + Clone) {
    let chain = chain_on(store.clone());
    let explanation = chain.explain("k").await.unwrap();
    assert!(matches!(below(&explanation), (Held::Nothing, None)), "{explanation}");
    assert_eq!(explanation.get.action, Action::Miss);
    assert_eq!(explanation.get_or_load.action, Action::Load);

    let write = Write::new(key("k"), Entry::new("Ada".to_owned(), Expiry::Never), Ticket::unconditional());
    store.set(write).await.unwrap();
    let explanation = chain.explain("k").await.unwrap();
    assert_eq!(explanation.get.action, Action::Serve { tier: "below".to_owned() }, "{explanation}");
    let (held, stored) = below(&explanation);
    let stored = stored.unwrap();
    let record = stored.record.as_ref().unwrap().as_ref().unwrap();
    assert!(matches!(held, Held::Value), "{explanation}");
    assert_eq!((record.content, record.codec, record.version), (Content::Value, 1, 3));
    assert_eq!(record.schema, Envelope::shaped_tag(Envelope::schema_tag("text"), shape()));
    assert_eq!((stored.size, stored.ttl), (42 + record.payload, Some(Ttl::Never)));
    assert!(explanation.to_string().contains("codec bincode"), "{explanation}");

    chain.set_with_ttl("k", "Ada".to_owned(), HOUR).await.unwrap();
    let explanation = chain.explain("k").await.unwrap();
    let stored = below(&explanation).1.unwrap();
    assert!(matches!(stored.ttl, Some(Ttl::After(ttl)) if ttl <= HOUR && ttl > HOUR / 2), "{explanation}");
    let life = stored.record.as_ref().unwrap().as_ref().unwrap().life;
    // Rounded down.
    assert!(life.ttl_millis().is_some_and(|millis| (3_500_000..=3_600_000).contains(&millis)), "{life:?}");

    // A lookup and a load in progress.
    store.lease(&key("leased")).await.unwrap();
    let explanation = chain.explain("leased").await.unwrap();
    assert!(matches!(below(&explanation).0, Held::Marker(Content::Lease)), "{explanation}");
    store.claim(&key("claimed")).await.unwrap();
    let explanation = chain.explain("claimed").await.unwrap();
    assert!(matches!(below(&explanation).0, Held::Marker(Content::Claim)), "{explanation}");
    assert_eq!(explanation.get_or_load.action, Action::Wait { tier: "below".to_owned() }, "{explanation}");
    assert!(matches!(below(&explanation).1.unwrap().ttl, Some(Ttl::After(_))), "markers expire");

    let nobody = || async { Ok::<_, io::Error>(None::<String>) };
    assert_eq!(chain.get_or_load("nobody", nobody).await.unwrap(), None);
    chain.wait().await.unwrap();
    let explanation = chain.explain("nobody").await.unwrap();
    assert!(matches!(below(&explanation).0, Held::Absence), "{explanation}");
}

fn shape() -> Option<u32> {
    cache_core::Codec::<String>::shape(&cache_core::codec::Bincode)
}

#[tokio::test]
async fn records_in_redis_are_explained() {
    let server = RedisServer::start().await;
    let store = RedisStore::builder(server.url()).namespace("users").schema("text").connect().await.unwrap();
    check_records(store.clone()).await;

    // What another program has written there, and a record of another key.
    server.cli(&["SET", "users:foreign", "not a record"]);
    let chain = chain_on(store);
    let explanation = chain.explain("foreign").await.unwrap();
    let (held, stored) = below(&explanation);
    assert!(matches!(held, Held::Undecodable(error) if error.kind() == ErrorKind::Codec), "{explanation}");
    assert_eq!(stored.unwrap().size, 12);
    assert!(matches!(&stored.unwrap().record, Some(Err(error)) if error.kind() == ErrorKind::Codec));
    assert_eq!(explanation.get.action, Action::Miss, "{explanation}");
    server.cli(&["COPY", "users:k", "users:copy"]);
    let explanation = chain.explain("copy").await.unwrap();
    assert!(matches!(below(&explanation).0, Held::Undecodable(_)), "{explanation}");

    // Nothing has changed, and only reads have reached the server.
    let before = server.cli(&["DEBUG", "DIGEST"]);
    server.cli(&["CONFIG", "RESETSTAT"]);
    for key in ["k", "leased", "claimed", "nobody", "foreign", "none"] {
        chain.explain(key).await.unwrap();
    }
    assert_eq!(server.cli(&["DEBUG", "DIGEST"]), before);
    let [get, mget, set, eval, unlink] = server.calls(&["get", "mget", "set", "evalsha", "unlink"])[..] else {
        panic!("five commands");
    };
    assert!(get + mget >= 6, "{get} {mget}");
    assert_eq!((set, eval, unlink), (0, 0, 0));

    // A server that does not answer.
    server.stop();
    let explanation = chain.explain("k").await.unwrap();
    assert!(matches!(below(&explanation).0, Held::Unknown(_)), "{explanation}");
    server.resume();
}

#[tokio::test]
async fn plain_values_in_redis_are_explained() {
    let server = RedisServer::start().await;
    let store: RedisStore<String> =
        RedisStore::builder(server.url()).namespace("users").plain().connect().await.unwrap();
    let chain = chain_on(store);
    chain.set_with_ttl("k", "Ada".to_owned(), HOUR).await.unwrap();
    let explanation = chain.explain("k").await.unwrap();
    let (held, stored) = below(&explanation);
    assert!(matches!(held, Held::Value) && stored.unwrap().record.is_none(), "{explanation}");
}

async fn check_sql(kind: SqlKind) -> Result<()> {
    let place = SqlPlace::of(kind).await;
    let store = place.builder::<String>().schema("text").connect().await?;
    check_records(store.clone()).await;
    let rows = place.rows().await;
    let chain = chain_on(store);
    for key in ["k", "leased", "claimed", "nobody", "none"] {
        chain.explain(key).await?;
    }
    assert_eq!(place.rows().await, rows);
    Ok(())
}

#[tokio::test]
async fn rows_in_mariadb_are_explained() {
    check_sql(SqlKind::MySql).await.unwrap();
}

#[tokio::test]
async fn rows_in_postgres_are_explained() {
    check_sql(SqlKind::Postgres).await.unwrap();
}

#[tokio::test]
async fn rows_in_sqlite_are_explained() {
    check_sql(SqlKind::Sqlite).await.unwrap();
}
