//! The wall clocks of the machines do not matter: lives are counted by the server's.

use std::{
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cache_core::{
    Clock as _, Codec, Entry, Expiry, ManualClock, Store as _, Ticket, Ttl, Write,
    backend::{Binding, Envelope, Life},
    codec,
};
use integration_tests::{CutProxy, RedisServer, eventually, key, living, never, remaining, skewed};
use store_redis::RedisStore;

const TTL: Duration = Duration::from_secs(60);

/// What the round trips of the measurements may cost on a busy machine; far less than the clocks
/// are apart.
const SLACK: Duration = Duration::from_secs(2);

/// Runs the peer on a machine whose wall clock is wrong by so many seconds; what it printed last,
/// in nanoseconds.
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
        let builder = RedisStore::builder(proxy.url()).namespace("clocks").timeout(Duration::from_secs(5));
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

#[tokio::test]
async fn a_write_that_takes_long_does_not_lengthen_a_life() {
    let server = RedisServer::start().await;
    let proxy = CutProxy::start(server.port()).await;
    let builder = RedisStore::builder(proxy.url()).namespace("clocks").timeout(Duration::from_secs(5));
    let records: RedisStore<u64> = builder.clone().connect().await.unwrap();
    let plain: RedisStore<u64> = builder.plain().connect().await.unwrap();
    let delay = Duration::from_millis(400);
    for store in [records, plain] {
        let write = living(&key("k"), 1, TTL);
        let Expiry::At(written) = write.entry.expiry() else { panic!("it expires") };
        proxy.delay(delay, Duration::ZERO);
        store.set(write).await.unwrap();
        proxy.delay(Duration::ZERO, Duration::ZERO);
        let entry = store.get(&key("k")).await.unwrap().unwrap();
        let Expiry::At(read) = entry.expiry() else { panic!("it expires") };
        assert!(read <= written, "{store:?}: longer by {:?}", read.since(written));
        let lost = written.since(read);
        assert!(lost < SLACK, "{store:?}: shorter by {lost:?}");
    }
}

/// When the record was created by the clock that its writer took for the server's, in seconds after
/// the server's own.
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

/// A proxy and a store behind it whose own clock is moved by hand, so that the server's is measured
/// when the test says so.
async fn behind_a_proxy(server: &RedisServer, clock: &ManualClock) -> (CutProxy, RedisStore<u64>) {
    let proxy = CutProxy::start(server.port()).await;
    let builder = RedisStore::builder(proxy.url()).namespace("clocks").clock(clock.shared());
    let store = builder.connect().await.unwrap();
    (proxy, store)
}

fn expiring(clock: &ManualClock, value: u64, ttl: Duration) -> Write<u64> {
    let entry = Entry::new(value, Expiry::after(clock.now(), Ttl::After(ttl)));
    Write::new(key("k"), entry, Ticket::unconditional())
}

#[tokio::test]
async fn a_life_ends_although_the_clock_is_set_back() {
    let server = RedisServer::start().await;
    let clock = ManualClock::new();
    let (proxy, store) = behind_a_proxy(&server, &clock).await;
    store.set(expiring(&clock, 1, Duration::from_secs(2 * 3600))).await.unwrap();
    store.set(never(&key("stays"), 1, Ticket::unconditional())).await.unwrap();
    let stale = expiring(&clock, 1, Duration::from_secs(2 * 3600)).entry;
    let stale = stale.expiring_by(Expiry::Never).fresh_until(Expiry::after(clock.now(), Ttl::After(TTL)));
    store.set(Write::new(key("stales"), stale, Ticket::unconditional())).await.unwrap();
    proxy.shift_time(-3600);
    // From now on the server's clock is measured anew.
    clock.advance(Duration::from_secs(61));
    assert_eq!(store.get(&key("k")).await.unwrap(), None, "nobody knows how much of its life is over");
    assert_eq!(store.get(&key("stales")).await.unwrap(), None);
    assert_eq!(
        store.get(&key("stays")).await.unwrap().unwrap().into_value(),
        Some(1),
        "it has no life that could grow"
    );
    // By the clock as it is, all is as ever.
    store.set(expiring(&clock, 2, TTL)).await.unwrap();
    let entry = store.get(&key("k")).await.unwrap().unwrap();
    assert!(entry.remaining(clock.now()).as_duration().unwrap() <= TTL);
    assert_eq!(entry.into_value(), Some(2));
}

#[tokio::test]
async fn a_record_a_moment_ahead_is_served() {
    let server = RedisServer::start().await;
    let builder = RedisStore::<u64>::builder(server.url()).namespace("clocks").schema("number");
    let store = builder.connect().await.unwrap();
    store.set(never(&key("k"), 0, Ticket::unconditional())).await.unwrap();
    let epoch = Envelope::epoch(&server.raw(&[b"GET", b"clocks:k"])).unwrap();
    let envelope = Envelope::new(
        codec::Bincode,
        Envelope::shaped_tag(Envelope::schema_tag("number"), Codec::<u64>::shape(&codec::Bincode)),
    );
    for (ahead, found) in [(900, Some(1)), (60_000, None)] {
        // The server runs by the clock of this machine.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let created = u64::try_from(now).unwrap() + ahead;
        let end = Some(created + 10_000);
        // A life has an end also if it only turns stale.
        for life in [Life::new(created, end), Life::new(created, None).stale_at(end)] {
            let record = envelope.seal(Binding::new(b"clocks:k", epoch), &1_u64, life, 1).unwrap();
            server.raw(&[b"SET", b"clocks:k", &record]);
            let entry = store.get(&key("k")).await.unwrap();
            assert_eq!(entry.and_then(Entry::into_value), found, "{ahead} ms ahead, {life:?}");
        }
    }
}

#[tokio::test]
async fn a_claim_from_the_future_refuses_nobody() {
    let server = RedisServer::start().await;
    let clock = ManualClock::new();
    let (proxy, store) = behind_a_proxy(&server, &clock).await;
    let old = store.claim(&key("k")).await.unwrap();
    assert!(old.granted && !store.claim(&key("k")).await.unwrap().granted);
    proxy.shift_time(-3600);
    clock.advance(Duration::from_secs(61));
    let new = store.claim(&key("k")).await.unwrap();
    assert!(new.granted && new.ticket != old.ticket);
    assert!(!store.claim(&key("k")).await.unwrap().granted, "the new one is of this time");
    assert!(!store.fill(never(&key("k"), 1, old.ticket)).await.unwrap());
    assert!(store.fill(never(&key("k"), 2, new.ticket)).await.unwrap());
}
