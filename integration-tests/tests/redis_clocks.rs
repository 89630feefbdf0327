//! The wall clocks of the machines do not matter: lives are counted by the server's.

use std::{
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cache_core::{Expiry, Store as _};
use integration_tests::{CutProxy, RedisServer, eventually, key, living, remaining, skewed};
use store_redis::RedisStore;

const TTL: Duration = Duration::from_secs(60);

/// What the round trips of the measurements may cost on a busy machine; far less than the clocks are apart.
const SLACK: Duration = Duration::from_secs(2);

/// Runs the peer on a machine whose wall clock is wrong by so many seconds; what it printed last, in nanoseconds.
fn peer(url: &str, action: &str, skew: i64) -> Option<Duration> {
    let mut peer = skewed(Command::new(env!("CARGO_BIN_EXE_redis_peer")), skew);
    let output = peer.args([url, action]).output().expect("a peer");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines = printed.lines().map(|line| line.parse::<u64>().unwrap());
    // The clock was wrong indeed.
    let ours = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let theirs = i64::try_from(lines.next().unwrap()).unwrap();
    assert!((theirs - ours - skew * 1000).abs() < 5_000, "the peer's clock is off by {} ms", theirs - ours);
    lines.next().map(Duration::from_nanos)
}

fn check(left: Duration, elapsed: Duration, skew: i64) {
    assert!(left <= TTL, "{left:?} remain after {elapsed:?}, with {skew} s of skew");
    assert!(left + elapsed + SLACK > TTL, "only {left:?} remain after {elapsed:?}, with {skew} s of skew");
}

#[tokio::test]
async fn a_life_is_the_same_for_peers_whose_clocks_are_ten_seconds_off() {
    let server = RedisServer::start().await;
    let url = server.url();
    let store: RedisStore<u64> = RedisStore::builder(&url).namespace("clocks").connect().await.unwrap();
    for skew in [-10, 10] {
        let started = Instant::now();
        peer(&url, "write", skew);
        let entry = store.get(&key("k")).await.unwrap().unwrap();
        check(remaining(&entry), started.elapsed(), skew);
        // From one wrong clock to the other.
        let left = peer(&url, "read", -skew).unwrap();
        check(left, started.elapsed(), -2 * skew);

        let started = Instant::now();
        store.set(living(&key("k"), 1, TTL)).await.unwrap();
        let left = peer(&url, "read", skew).unwrap();
        check(left, started.elapsed(), skew);
    }
}

/// All in one process, so the deadlines compare exactly.
#[tokio::test]
async fn no_delay_of_the_measurement_lengthens_a_life() {
    let server = RedisServer::start().await;
    let delay = Duration::from_millis(200);
    let mut stores: Vec<RedisStore<u64>> = Vec::new();
    for (requests, replies) in [(Duration::ZERO, Duration::ZERO), (delay, Duration::ZERO), (Duration::ZERO, delay)] {
        let proxy = CutProxy::start(server.port()).await;
        proxy.delay(requests, replies);
        let builder = RedisStore::builder(proxy.url()).namespace("clocks").deadline(Duration::from_secs(5));
        stores.push(builder.connect().await.unwrap());
        proxy.delay(Duration::ZERO, Duration::ZERO);
        // It serves on for as long as the runtime.
        std::mem::forget(proxy);
    }
    for (from, writer) in stores.iter().enumerate() {
        for (to, reader) in stores.iter().enumerate() {
            let write = living(&key("k"), 1, TTL);
            let Expiry::At(written) = write.entry.expiry() else { panic!("it expires") };
            writer.set(write).await.unwrap();
            // Some of the life must have passed: a fresh one is capped by what was written.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let entry = reader.get(&key("k")).await.unwrap().unwrap();
            let Expiry::At(read) = entry.expiry() else { panic!("it expires") };
            assert!(read <= written, "from {from} to {to}: longer by {:?}", read.since(written));
            let lost = written.since(read);
            assert!(lost < 2 * delay + SLACK, "from {from} to {to}: shorter by {lost:?}");
        }
    }
}

/// When the record was created by the clock that its writer took for the server's, in seconds after the server's own.
fn ahead(server: &RedisServer) -> u64 {
    let record = server.raw(&[b"GET", b"clocks:k"]);
    let created = u64::from_le_bytes(record[18..26].try_into().unwrap());
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    // Rounded: some milliseconds have passed since.
    (created + 30_000).saturating_sub(now) / 1000 / 60 * 60
}

#[tokio::test]
async fn the_clock_of_the_next_server_is_measured_after_an_outage() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let store: RedisStore<u64> = RedisStore::builder(proxy.url()).namespace("clocks").connect().await.unwrap();
    proxy.shift_time(3600);
    store.set(living(&key("k"), 1, TTL)).await.unwrap();
    assert_eq!(ahead(&server), 0, "the measurement is fresh");
    proxy.hang_up();
    eventually("the outage", async || store.get(&key("k")).await.err()).await;
    eventually("the recovery", async || store.set(living(&key("k"), 1, TTL)).await.ok()).await;
    assert_eq!(ahead(&server), 3600);
}

#[tokio::test]
async fn the_clock_of_the_next_server_is_measured_after_a_reconnection_that_no_call_noticed() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let url = format!("{}?protocol=resp3", proxy.url());
    let store: RedisStore<u64> = RedisStore::builder(url).namespace("clocks").connect().await.unwrap();
    store.set(living(&key("k"), 1, TTL)).await.unwrap();
    assert_eq!(ahead(&server), 0);
    proxy.shift_time(3600);
    let before = proxy.connections();
    proxy.hang_up();
    eventually("the reconnection", async || (proxy.connections() > before).then_some(())).await;
    store.set(living(&key("k"), 1, TTL)).await.unwrap();
    assert_eq!(ahead(&server), 3600);
}
