//! The wall clocks of the machines do not matter: lives are counted by the server's.

use std::{
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cache_core::Store as _;
use integration_tests::{RedisServer, key, living, remaining};
use store_redis::RedisStore;

const TTL: Duration = Duration::from_secs(60);

/// What the round trips of the measurements may cost on a busy machine; far less than the clocks are apart.
const SLACK: Duration = Duration::from_secs(2);

/// Runs the peer on a machine whose wall clock is wrong by so many seconds; what it printed last, in nanoseconds.
fn peer(url: &str, action: &str, skew: i64) -> Option<Duration> {
    let output = Command::new("faketime")
        .args(["--exclude-monotonic", "-f", &format!("{skew:+}s")])
        .args([env!("CARGO_BIN_EXE_redis_peer"), url, action])
        .output()
        .unwrap_or_else(|error| panic!("this test needs faketime (apt-get install faketime): {error}"));
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
