//! The quickstart of cache-chain, with a real Redis.

#[allow(dead_code, reason = "the test does not run its `main`")]
#[path = "../../cache-chain/examples/quickstart.rs"]
mod quickstart;

use integration_tests::RedisServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quickstart_runs() {
    let server = RedisServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", directory.path().join("quickstart.db").display());
    quickstart::run(Some(server.url()), &database).await.unwrap();
    quickstart::run(None, &database).await.unwrap();
}
