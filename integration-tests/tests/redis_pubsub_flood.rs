//! The memory in use while another client floods the channel of the announcements.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use cache_chain::{ChainCache, redis::RedisStore, stretto::StrettoStore};
use integration_tests::{RedisServer, eventually};
use peak_alloc::PeakAlloc;
use store_redis::Invalidations;

/// It counts for the whole process, so there is one test here.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MESSAGES: usize = 100_000;
/// The size of a message. All of them together are larger than the chain may take.
const SIZE: usize = 500;

/// Publishes messages that are announcements but for their number.
fn flood(port: u16) {
    let payload = [b"MLI\x01K\x07\0\0\0\0\0\0\0".as_slice(), &[b'k'; SIZE]].concat();
    let channel = r"n:\invalidate/0";
    let mut publish = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), payload.len());
    publish.push_str(str::from_utf8(&payload).unwrap());
    publish.push_str("\r\n");
    let batch = publish.repeat(100);
    let mut wire = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut replies = [0; 400];
    for _ in 0..MESSAGES / 100 {
        wire.write_all(batch.as_bytes()).unwrap();
        // `:1` and the end of the line, for each.
        wire.read_exact(&mut replies).unwrap();
        assert!(replies.starts_with(b":1\r\n"));
    }
}

async fn stays_bounded() {
    // The server would end a slow connection, and the chain a slow heartbeat.
    let server = RedisServer::start_with(&["--client-output-buffer-limit", "pubsub 0 0 0"]).await;
    let redis = RedisStore::<String>::builder(server.url()).namespace("n").timeout(Duration::from_secs(30));
    let redis = redis.invalidations(Invalidations::PubSub);
    let memory = StrettoStore::new(1000).unwrap();
    let chain = ChainCache::builder().tier(memory).tier(redis.connect().await.unwrap()).build().unwrap();
    eventually("trust", async || chain.stats().coherence.trusted.then_some(())).await;
    chain.set("ada", "1".into()).await.unwrap();

    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let port = server.port();
    tokio::task::spawn_blocking(move || flood(port)).await.unwrap();
    let received = || {
        let stats = chain.stats().coherence;
        stats.events + stats.events_unheld
    };
    eventually("all messages", async || (received() >= MESSAGES as u64).then_some(())).await;
    let most = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(most < MESSAGES * SIZE / 10, "{most} bytes");
    assert_eq!(chain.stats().coherence.ended, 0);
    eventually("the value", async || (chain.get("ada").await.unwrap().as_deref() == Some("1")).then_some(())).await;
}

#[test]
fn a_flood_of_messages_stays_bounded_in_memory() {
    let mut runtimes = [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()];
    for runtime in &mut runtimes {
        runtime.enable_all().build().unwrap().block_on(stays_bounded());
    }
}
