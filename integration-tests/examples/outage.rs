//! What callers feel while a Redis hangs, dies and comes back: `cargo run --release --example
//! outage`.
//!
//! A mixed load on memory in front of a real, private Redis; each call of the chain has a deadline.
//! The server is stopped (SIGSTOP) for two seconds, then killed and restarted from a file that was
//! saved before. Shown is the distribution of the latencies in each phase, how many calls took
//! longer than the deadline and 5 ms for the scheduler, and how often something was served that had
//! been replaced or deleted.

use std::time::Duration;

use cache_chain::{ChainCache, redis::RedisStore, stretto::StrettoStore};
use integration_tests::{RedisServer, Workload};

const DEADLINE: Duration = Duration::from_millis(100);
const SLACK: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut server = RedisServer::start_with(&["--dbfilename", "dump.rdb"]).await;
    let redis = RedisStore::builder(server.url()).namespace("n").connect().await?;
    // A small memory, so that most reads reach Redis.
    let chain: ChainCache<u64> =
        ChainCache::builder().tier(StrettoStore::new(64)?).tier(redis).timeout(DEADLINE).build()?;
    let load = Workload::new(chain.clone(), 1000);
    let tasks = load.run(16);

    println!("deadline of a call: {DEADLINE:?}; 16 tasks, 1000 keys, a call a millisecond each at most\n");
    println!("| phase | calls | failed | p50 | p99 | p99.9 | longest | beyond {:?} | outdated |", DEADLINE + SLACK);
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut served_outdated = 0;
    let mut show = async |phase: &str, seconds: u64| {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let seen = load.report();
        let [half, most, nearly, all] = [0.5, 0.99, 0.999, 1.0].map(|part| seen.quantile(part));
        let (calls, beyond) = (seen.latencies.len(), seen.beyond(DEADLINE + SLACK));
        let (failed, outdated) = (seen.failed, seen.outdated.len());
        println!(
            "| {phase} | {calls} | {failed} | {half:.1?} | {most:.1?} | {nearly:.1?} | {all:.1?} | {beyond} | {outdated} |"
        );
        served_outdated += outdated;
    };
    show("healthy", 3).await;
    server.cli(&["SAVE"]);
    show("healthy, saved", 1).await;
    server.stop();
    show("stopped", 2).await;
    server.resume();
    show("goes on", 3).await;
    server.kill();
    show("killed", 2).await;
    server.restart();
    show("back with old data", 4).await;
    load.end();
    for task in tasks {
        task.await?;
    }
    let at_rest = load.check_at_rest().await;
    println!(
        "\nat rest, {} of 1000 keys give something outdated; while it ran, {served_outdated} calls did",
        at_rest.len()
    );
    println!("\n{}", chain.stats());
    Ok(())
}
