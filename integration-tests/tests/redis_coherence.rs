//! First tiers of several instances over one Redis: none serves what another one, or anybody else,
//! has changed longer ago than W.

use std::time::{Duration, Instant};

use cache_chain::{ChainCache, Coherence, ErrorKind, FreshnessToken, ReadThrough, Source, Tier};
use cache_core::testkit::{StreamHarness, broken_stream_clauses};
use integration_tests::{CutProxy, RedisServer, eventually};
use store_redis::RedisStore;
use store_stretto::StrettoStore;

type Chain = ChainCache<String>;

/// An instance of a service: memory of its own over the Redis of all.
async fn instance(url: &str) -> Chain {
    instance_with(url, Coherence::new()).await
}

async fn instance_with(url: &str, coherence: Coherence) -> Chain {
    let redis = RedisStore::<String>::builder(url).namespace("users").connect().await.unwrap();
    let memory = Tier::new(StrettoStore::new(10_000).unwrap()).name("memory");
    let chain = ChainCache::builder().tier(memory).tier(Tier::new(redis).name("redis")).coherence(coherence);
    chain.build().unwrap()
}

async fn trusted(chain: &Chain) {
    eventually("trust", async || chain.stats().coherence.trusted.then_some(())).await;
}

/// Reads until this value is served from memory.
async fn served_from_memory(chain: &Chain, key: &str, value: &str) {
    eventually("a hit in memory", async || {
        let found = chain.get_detailed(key).await.unwrap();
        (found.source == Source::Tier("memory".into()) && found.value.as_deref() == Some(value)).then_some(())
    })
    .await;
}

fn window(chain: &Chain) -> Duration {
    chain.stats().coherence.window
}

/// Returns `true` if this value was read.
fn is(read: &cache_chain::Result<Option<String>>, value: &str) -> bool {
    matches!(read, Ok(Some(found)) if found == value)
}

/// Returns how long the instance went on serving `old`.
async fn time_until_changed(chain: &Chain, key: &str, old: &str) -> Duration {
    let changed = Instant::now();
    eventually("the change", async || (chain.get(key).await.unwrap().as_deref() != Some(old)).then_some(())).await;
    changed.elapsed()
}

#[tokio::test]
async fn g2_an_instance_sees_what_others_change() {
    let server = RedisServer::start().await;
    let (a, b) = (instance(&server.url()).await, instance(&server.url()).await);
    trusted(&a).await;
    trusted(&b).await;
    assert_eq!(a.stats().coherence.mode, Some("tracking"));
    assert_eq!(window(&a), Duration::from_millis(1500));

    a.set("ada", "1".into()).await.unwrap();
    served_from_memory(&b, "ada", "1").await;
    a.set("ada", "2".into()).await.unwrap();
    assert!(time_until_changed(&b, "ada", "1").await < window(&b));
    served_from_memory(&b, "ada", "2").await;
    a.del("ada").await.unwrap();
    assert!(time_until_changed(&b, "ada", "2").await < window(&b));

    // Anybody else: an operator, another program, the server itself.
    for change in [
        ["DEL", "users:ada", "", ""].as_slice(),
        &["RENAME", "users:ada", "elsewhere", ""],
        &["PEXPIRE", "users:ada", "1", ""],
        &["FLUSHALL", "", "", ""],
        &["SET", "users:ada", "foreign", ""],
    ] {
        a.set("ada", "3".into()).await.unwrap();
        served_from_memory(&b, "ada", "3").await;
        let change: Vec<&str> = change.iter().copied().filter(|part| !part.is_empty()).collect();
        server.cli(&change);
        assert!(time_until_changed(&b, "ada", "3").await < window(&b), "{change:?}");
    }
}

/// Whenever the announcement of its own claim arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_loaded_is_found_by_the_next_call() {
    let server = RedisServer::start().await;
    let chain = instance(&server.url()).await;
    trusted(&chain).await;
    let loaded = async |key| {
        chain.get_or_load(key, || async { Ok::<_, std::io::Error>("v".to_owned()) }).await.unwrap();
        key
    };
    for n in 0..500 {
        assert_eq!(chain.get(loaded(("got", n)).await).await.unwrap().as_deref(), Some("v"));
        assert!(chain.contains(loaded(("contained", n)).await).await.unwrap());
        assert_eq!(chain.take(loaded(("taken", n)).await).await.unwrap().as_deref(), Some("v"));
        assert!(chain.touch(loaded(("touched", n)).await, Duration::from_secs(60)).await.unwrap());
    }
}

#[tokio::test]
async fn an_unchanged_entry_is_confirmed_without_its_value() {
    let server = RedisServer::start().await;
    let (a, b) = (instance(&server.url()).await, instance(&server.url()).await);
    trusted(&b).await;
    let large = "x".repeat(100_000);
    a.set("large", large.clone()).await.unwrap();
    served_from_memory(&b, "large", &large).await;

    // Announced although nothing has changed.
    let before = b.stats().coherence;
    server.cli(&["CONFIG", "RESETSTAT"]);
    server.cli(&["SETRANGE", "users:large", "0", "MLC"]);
    eventually("the check", async || {
        assert_eq!(b.get("large").await.unwrap(), Some(large.clone()));
        (b.stats().coherence.checks_unchanged > before.checks_unchanged).then_some(())
    })
    .await;
    served_from_memory(&b, "large", &large).await;
    assert_eq!(server.calls(&["get", "mget", "getrange"])[..2], [0, 0]);
    assert_eq!(b.stats().coherence.checks_changed, before.checks_changed);
}

#[tokio::test]
async fn without_the_server_nothing_unproven_is_served() {
    let mut server = RedisServer::start().await;
    let chain = instance_with(&server.url(), Coherence::new().heartbeat(Duration::from_millis(100))).await;
    let grace = Coherence::new().heartbeat(Duration::from_millis(100)).grace(Duration::from_secs(3600));
    let graceful = instance_with(&server.url(), grace).await;
    for chain in [&chain, &graceful] {
        trusted(chain).await;
        chain.set("ada", "1".into()).await.unwrap();
        served_from_memory(chain, "ada", "1").await;
    }
    server.kill();
    let failed = eventually("an error", async || chain.get("ada").await.err()).await;
    assert!(matches!(failed.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{failed}");
    let found = eventually("grace", async || {
        let found = graceful.get_detailed("ada").await.unwrap();
        found.in_grace.then_some(found)
    })
    .await;
    assert_eq!((found.value.as_deref(), found.source), (Some("1"), Source::Tier("memory".into())));
    assert!(graceful.stats().coherence.served_in_grace > 0);

    // The restarted server has lost the value.
    server.restart();
    for chain in [&chain, &graceful] {
        eventually("the loss", async || (chain.get("ada").await.ok()?.is_none()).then_some(())).await;
        trusted(chain).await;
        assert_eq!(chain.stats().coherence.epoch, 2);
    }
    assert_eq!(graceful.get("ada").await.unwrap(), None);
}

/// The store and its stream behind a proxy, for the contract suite of streams.
struct RedisStream {
    server: RedisServer,
    proxy: CutProxy,
}

impl StreamHarness for RedisStream {
    type Store = RedisStore<String>;

    async fn store(&self) -> RedisStore<String> {
        self.server.cli(&["FLUSHALL"]);
        RedisStore::builder(self.proxy.url()).namespace("n").connect().await.unwrap()
    }

    async fn cut(&self) {
        self.proxy.hang_up();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_tracking_keeps_the_contract_of_streams() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let harness = RedisStream { server, proxy };
    assert_eq!(Box::pin(broken_stream_clauses(&harness)).await, []);
}

/// Connections that pass nothing on and do not end either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_holds_on_half_open_connections() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let (a, b) = (instance(&server.url()).await, instance(&proxy.url()).await);
    trusted(&b).await;
    for round in 0..3 {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        a.set("ada", old.clone()).await.unwrap();
        served_from_memory(&b, "ada", &old).await;
        proxy.forget();
        a.set("ada", new.clone()).await.unwrap();
        let changed = Instant::now();
        eventually("the new value", async || {
            let began = changed.elapsed();
            let read = b.get("ada").await;
            assert!(began <= window(&b) || !is(&read, &old), "served {began:?} later");
            (read.ok().flatten()? == new).then_some(())
        })
        .await;
        trusted(&b).await;
    }
}

/// The server is stopped and does not answer, then is killed and comes back with old data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_holds_when_the_server_comes_back_with_old_data() {
    let mut server = RedisServer::start_with(&["--dbfilename", "dump.rdb"]).await;
    let chain = instance_with(&server.url(), Coherence::new().heartbeat(Duration::from_millis(50))).await;
    trusted(&chain).await;
    for round in 0..10 {
        let [old, new] = ["old", "new"].map(|age| format!("{age} {round}"));
        chain.set("ada", old.clone()).await.unwrap();
        server.cli(&["SAVE"]);
        chain.set("ada", new.clone()).await.unwrap();
        served_from_memory(&chain, "ada", &new).await;
        server.kill();
        server.restart();
        let killed = Instant::now();
        server.kill();
        server.restart();
        // The record of the old run is not read, and memory does not serve what was lost with it.
        eventually("the loss", async || {
            let began = killed.elapsed();
            let read = chain.get("ada").await;
            assert!(!is(&read, &old), "a value that was replaced");
            assert!(!is(&read, &new) || began <= window(&chain), "served {began:?} later");
            read.ok()?.is_none().then_some(())
        })
        .await;
        trusted(&chain).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_shows_a_write_in_every_instance() {
    let server = RedisServer::start().await;
    let (a, b) = (instance(&server.url()).await, instance(&server.url()).await);
    trusted(&b).await;
    for round in 0..200 {
        let value = round.to_string();
        let token = a.set_with_token("ada", value.clone()).await.unwrap();
        let token: FreshnessToken = token.to_string().parse().unwrap();
        assert_eq!(b.get_at_least("ada", token).await.unwrap(), Some(value));
    }
    let token = a.del_with_token("ada").await.unwrap();
    assert_eq!(b.get_at_least("ada", token).await.unwrap(), None);
    // A while later, memory is known to be as new.
    let token = a.set_with_token("bo", "1".into()).await.unwrap();
    let hits = || b.stats().tiers[0].hits;
    eventually("a hit in memory", async || {
        let before = hits();
        assert_eq!(b.get_at_least("bo", token).await.unwrap().as_deref(), Some("1"));
        (hits() > before).then_some(())
    })
    .await;
    // A token of the future asks Redis, and so does one of another server.
    for text in ["1xffffffffffff", "0x0"] {
        let before = hits();
        assert_eq!(b.get_at_least("bo", text.parse().unwrap()).await.unwrap().as_deref(), Some("1"));
        assert_eq!(hits(), before, "{text}");
    }
}

/// Many entries are checked by their heads after a reconnect. `CACHE_TEST_ENTRIES` sets how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_keeps_the_entries_and_transfers_no_values() {
    let entries: u32 = std::env::var("CACHE_TEST_ENTRIES").map_or(20_000, |entries| entries.parse().unwrap());
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let redis = RedisStore::<String>::builder(proxy.url()).namespace("users").connect().await.unwrap();
    let memory = Tier::new(StrettoStore::new(5 * u64::from(entries)).unwrap()).name("memory");
    let chain: Chain = ChainCache::builder().tier(memory).tier(redis).backfill_items(100_000).build().unwrap();
    trusted(&chain).await;
    let value = "v".repeat(1000);
    let keys: Vec<u32> = (0..entries).collect();
    for chunk in keys.chunks(500) {
        chain.set_many(chunk.iter().map(|key| (*key, value.clone()))).await.unwrap();
    }
    // The echoes of the writes are checked now.
    for _ in 0..2 {
        for chunk in keys.chunks(500) {
            assert!(chain.get_many(chunk.iter().copied()).await.unwrap().iter().all(Option::is_some));
        }
        chain.wait().await.unwrap();
    }
    let before = chain.stats().coherence;
    proxy.hang_up();
    eventually("the reconnect", async || {
        // The connection of the store was cut as well.
        chain.get("not there").await.ok()?;
        let now = chain.stats().coherence;
        (now.epoch > before.epoch && now.trusted).then_some(())
    })
    .await;
    server.cli(&["CONFIG", "RESETSTAT"]);
    for chunk in keys.chunks(500) {
        assert!(chain.get_many(chunk.iter().copied()).await.unwrap().iter().all(Option::is_some));
    }
    let after = chain.stats().coherence;
    let confirmed = after.checks_unchanged - before.checks_unchanged;
    assert!(confirmed >= u64::from(entries) * 99 / 100, "{confirmed} of {entries} were confirmed: {after:?}");
    let [heads, values] = server.calls(&["getrange", "mget"])[..] else { unreachable!() };
    assert!(heads >= confirmed && values * 500 <= u64::from(entries) / 50, "{heads} heads, {values} batches of values");
}

/// A replica takes over, and the old primary becomes its replica. All connections to the old one stay
/// open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_holds_in_a_failover() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    new.cli(&["REPLICAOF", "127.0.0.1", &old.port().to_string()]);
    eventually("the replication", async || {
        new.cli(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
    })
    .await;
    let proxy = CutProxy::start(old.port()).await;
    let quick = Coherence::new().heartbeat(Duration::from_millis(100));
    let (a, b) = (instance_with(&proxy.url(), quick.clone()).await, instance_with(&proxy.url(), quick).await);
    trusted(&b).await;
    a.set("ada", "1".into()).await.unwrap();
    served_from_memory(&b, "ada", "1").await;

    new.cli(&["REPLICAOF", "NO", "ONE"]);
    proxy.lead_to(new.port());
    old.cli(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
    // Somebody changes the key on the new primary at once.
    new.cli(&["DEL", "users:ada"]);
    let changed = Instant::now();
    eventually("the change", async || {
        let began = changed.elapsed();
        let read = b.get("ada").await;
        assert!(began <= window(&b) || !is(&read, "1"), "served {began:?} later");
        read.ok()?.is_none().then_some(())
    })
    .await;

    // All goes on with the new primary, when the connections of the stores to the old one are closed.
    // A store does not read what was written there before it was connected itself.
    proxy.hang_up();
    for chain in [&a, &b] {
        eventually("a write", async || chain.set("other", "1".into()).await.ok()).await;
    }
    a.set("ada", "2".into()).await.unwrap();
    eventually("the new value", async || is(&b.get("ada").await, "2").then_some(())).await;
    served_from_memory(&b, "ada", "2").await;
    trusted(&b).await;
}

/// The server evicts what memory holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_by_the_server_is_a_change() {
    let server = RedisServer::start_with(&["--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let chain = instance(&server.url()).await;
    trusted(&chain).await;
    chain.set("ada", "1".into()).await.unwrap();
    served_from_memory(&chain, "ada", "1").await;
    let filler = "x".repeat(100_000);
    let mut number = 0;
    eventually("the eviction", async || {
        number += 1;
        server.cli(&["SET", &format!("filler:{number}"), &filler]);
        (server.cli(&["EXISTS", "users:ada"]) == "0").then_some(())
    })
    .await;
    let evicted = Instant::now();
    eventually("the change", async || {
        let began = evicted.elapsed();
        let read = chain.get("ada").await;
        assert!(began <= window(&chain) || !is(&read, "1"), "served {began:?} later");
        read.ok()?.is_none().then_some(())
    })
    .await;
}

/// An entry that nobody has read for a while, and which is past its TTL, is not served after it was
/// deleted elsewhere, though the loader fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_an_idle_stale_value_is_not_served_after_a_deletion_elsewhere() {
    let server = RedisServer::start().await;
    let other = instance(&server.url()).await;
    let redis = RedisStore::<String>::builder(server.url()).namespace("users").connect().await.unwrap();
    let settings = ReadThrough::new().stale_for(Duration::from_secs(3600)).no_failure_cooldown();
    let tiers = ChainCache::builder().tier(StrettoStore::new(10_000).unwrap()).tier(redis).read_through(settings);
    let chain: Chain = tiers.build().unwrap();
    let fails = || async { Err::<String, _>(std::io::Error::other("the origin is down")) };
    trusted(&chain).await;
    for key in ["read", "idle"] {
        chain.set_with_ttl(key, "old".into(), Duration::from_millis(1)).await.unwrap();
    }
    eventually("the stale value", async || {
        chain.get_or_load("read", fails).await.ok().filter(|value| value == "old").map(drop)
    })
    .await;
    other.del_many(["read", "idle"]).await.unwrap();
    let deleted = Instant::now();
    for key in ["read", "idle"] {
        eventually("the failure", async || {
            let began = deleted.elapsed();
            let loaded = chain.get_or_load(key, fails).await;
            assert!(began <= window(&chain) || loaded.is_err(), "{key} was served {began:?} later");
            loaded.err()
        })
        .await;
    }
    assert!(chain.stats().loads.stale_served > 0);
}
