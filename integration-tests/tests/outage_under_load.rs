//! G7, with a real Redis under a mixed load that is stopped, or killed and comes back with old
//! data.

use std::time::Duration;

use cache_chain::{ChainCache, redis::RedisStore, stretto::StrettoStore};
use integration_tests::{RedisServer, Workload};

const DEADLINE: Duration = Duration::from_millis(250);

async fn chain(server: &RedisServer, url: &str) -> ChainCache<u64> {
    let redis =
        RedisStore::builder(format!("{}{url}", server.url())).namespace("n").timeout(Duration::from_millis(100));
    ChainCache::builder()
        .tier(StrettoStore::new(1000).expect("memory"))
        .tier(redis.connect().await.expect("Redis"))
        .timeout(DEADLINE)
        .build()
        .expect("a chain")
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// The load runs before, during and after the fault; the fault must be felt.
async fn under_load(chain: ChainCache<u64>, fault: impl AsyncFnOnce()) {
    let load = Workload::new(chain.clone(), 24);
    let tasks = load.run(8);
    pass(300).await;
    let before = load.report();
    assert!(before.failed == 0 && before.latencies.len() > 100, "{before:?}");
    assert_eq!(before.outdated, [""; 0], "before the fault");
    fault().await;
    let during = load.report();
    assert!(during.failed > 0, "the fault was not felt");
    assert_eq!(during.outdated, [""; 0], "during the fault");
    // Until it is used again.
    integration_tests::eventually("a recovery", async || {
        pass(100).await;
        let after = load.report();
        assert_eq!(after.outdated, [""; 0], "after the fault");
        (after.failed == 0 && chain.stats().tiers[1].pending_deletes == 0).then_some(())
    })
    .await;
    pass(300).await;
    load.end();
    for task in tasks {
        task.await.expect("a task ends");
    }
    let after = load.report();
    assert_eq!(after.outdated, [""; 0], "after the recovery");
    assert_eq!(load.check_at_rest().await, [""; 0], "at rest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_redis_that_hangs_and_goes_on() {
    for protocol in ["", "?protocol=resp3"] {
        let server = RedisServer::start().await;
        let chain = chain(&server, protocol).await;
        under_load(chain, async || {
            for millis in [50, 400, 1500] {
                server.stop();
                pass(millis).await;
                server.resume();
                pass(200).await;
            }
        })
        .await;
    }
}

/// What was written and deleted since the file was saved is undone in Redis, and not in what is
/// served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_redis_that_comes_back_with_old_data() {
    for protocol in ["", "?protocol=resp3"] {
        let mut server = RedisServer::start_with(&["--dbfilename", "dump.rdb"]).await;
        let chain = chain(&server, protocol).await;
        under_load(chain, async || {
            assert_eq!(server.cli(&["SAVE"]), "OK");
            pass(300).await;
            server.kill();
            pass(300).await;
            server.restart();
        })
        .await;
    }
}
