//! A thousand callers on a cold key in each of three processes.

use std::{process::Stdio, time::Duration};

use cache_chain::{ChainCache, ReadThrough, Tier, redis::RedisStore, sql::SqlStore};
use integration_tests::{MariaDb, RedisServer, eventually};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const CALLERS: &str = "1000";

/// Long enough for the others to ask for the claim a few times. A SQLite file counts no calls, and the
/// result does not depend on the number.
const SOME_POLLS: Duration = Duration::from_millis(300);

struct Peer {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(url: &str, patience: &str) -> Self {
        Self::start_with(url, patience, &[])
    }

    fn start_with(url: &str, patience: &str, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_load_peer"))
            // Batches of several keys share no lookups, and a thousand at once exceed the timeout of
            // a database.
            .args([url, patience, if more.is_empty() { CALLERS } else { "20" }])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output).lines() }
    }

    async fn says(&mut self) -> String {
        self.output.next_line().await.expect("its output").expect("a line")
    }

    async fn go_on(&mut self) {
        self.input.write_all(b"\n").await.expect("its input");
    }
}

/// With a load that nobody ends before all are under way, each process loads once for its thousand
/// callers.
#[tokio::test]
async fn g3_without_claims_each_process_loads_once() {
    let server = RedisServer::start().await;
    let mut peers: Vec<Peer> = (0..3).map(|_| Peer::start(&server.url(), "0")).collect();
    for peer in &mut peers {
        assert_eq!(peer.says().await, "asking");
        assert_eq!(peer.says().await, "loading");
    }
    for peer in &mut peers {
        peer.go_on().await;
        assert_eq!(peer.says().await, "loads 1");
    }
}

/// With claims, one process loads for the three thousand callers of all. It loads until `refused`
/// has returned.
async fn one_process_loads_for_all(url: &str, more: &[&str], refused: impl AsyncFnOnce()) {
    one_process_waits(url, "60000", more, refused).await;
}

async fn one_process_waits(url: &str, patience: &str, more: &[&str], refused: impl AsyncFnOnce()) {
    let mut first = Peer::start_with(url, patience, more);
    assert_eq!(first.says().await, "asking");
    assert_eq!(first.says().await, "loading");
    let mut others: Vec<Peer> = (0..2).map(|_| Peer::start_with(url, patience, more)).collect();
    for other in &mut others {
        assert_eq!(other.says().await, "asking");
    }
    refused().await;
    first.go_on().await;
    assert_eq!(first.says().await, "loads 1");
    for other in &mut others {
        assert_eq!(other.says().await, "loads 0");
    }
}

#[tokio::test]
async fn g3_with_claims_one_process_loads_for_all() {
    let server = RedisServer::start().await;
    one_process_loads_for_all(&server.url(), &[], claims_of(&server, 3)).await;
}

/// Waits for so many claims, granted or refused, from now on. A lease needs no script.
fn claims_of(server: &RedisServer, number: u64) -> impl AsyncFnOnce() {
    let scripts = || server.calls(&["evalsha"])[0];
    let before = scripts();
    async move || eventually("the claims", async || (scripts() >= before + number).then_some(())).await
}

/// A row is as good a claim as a record.
#[tokio::test]
async fn g3_with_claims_in_a_database_one_process_loads_for_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = MariaDb::start().await;
    let sqlite = format!("sqlite://{}", folder.path().join("cache").display());
    for url in [sqlite, database.url()] {
        one_process_loads_for_all(&url, &[], async || ()).await;
    }
}

/// Puts a value there that is stale at once.
async fn put_stale(shared: Tier<String>) {
    let chain = ChainCache::builder().tier(shared).read_through(ReadThrough::new().stale_for(Duration::from_secs(120)));
    let chain = chain.build().unwrap();
    chain.set_with_ttl("cold", "old".to_owned(), Duration::from_millis(1)).await.unwrap();
    eventually("the value is stale", async || chain.get("cold").await.unwrap().is_none().then_some(())).await;
}

/// All callers of all processes wait for the new value, which one process loads.
#[tokio::test]
async fn g3_a_stale_value_is_loaded_by_one_process_for_all() {
    let (server, folder) = (RedisServer::start().await, tempfile::tempdir().expect("a folder"));
    put_stale(RedisStore::builder(server.url()).namespace("n").connect().await.unwrap().into()).await;
    one_process_loads_for_all(&server.url(), &[], claims_of(&server, 3)).await;
    let sqlite = format!("sqlite://{}", folder.path().join("cache").display());
    put_stale(SqlStore::builder(&sqlite).namespace("n").create_table().connect().await.unwrap().into()).await;
    one_process_loads_for_all(&sqlite, &[], async || tokio::time::sleep(SOME_POLLS).await).await;
}

#[tokio::test]
async fn g3_a_batch_is_loaded_by_one_process_for_all() {
    let (server, folder) = (RedisServer::start().await, tempfile::tempdir().expect("a folder"));
    let sqlite = format!("sqlite://{}", folder.path().join("cache").display());
    // Each of the three processes claims two keys.
    one_process_loads_for_all(&server.url(), &["batch"], claims_of(&server, 6)).await;
    one_process_loads_for_all(&sqlite, &["batch"], async || tokio::time::sleep(SOME_POLLS).await).await;
}

/// With default settings, and longer than a claim lives that is not renewed.
#[tokio::test]
async fn g3_a_long_load_runs_once_with_default_settings() {
    let (server, folder) = (RedisServer::start().await, tempfile::tempdir().expect("a folder"));
    let sqlite = format!("sqlite://{}", folder.path().join("cache").display());
    let long = async || tokio::time::sleep(Duration::from_secs(7)).await;
    let redis = server.url();
    tokio::join!(one_process_waits(&redis, "default", &[], long), one_process_waits(&sqlite, "default", &[], long));
}

/// A process that dies while it loads holds up the others no longer than their patience.
#[tokio::test]
async fn g3_a_process_that_dies_while_loading_holds_up_nobody() {
    let server = RedisServer::start().await;
    let mut first = Peer::start(&server.url(), "60000");
    assert_eq!(first.says().await, "asking");
    assert_eq!(first.says().await, "loading");
    first.child.kill().await.expect("killed");
    let mut second = Peer::start(&server.url(), "200");
    assert_eq!(second.says().await, "asking");
    assert_eq!(second.says().await, "loading");
    second.go_on().await;
    assert_eq!(second.says().await, "loads 1");
}
