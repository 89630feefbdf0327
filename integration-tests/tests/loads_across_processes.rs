//! A thousand callers on a cold key in each of three processes.

use std::process::Stdio;

use integration_tests::{MariaDb, RedisServer, eventually};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const CALLERS: &str = "1000";

struct Peer {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(url: &str, patience: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_load_peer"))
            .args([url, patience, CALLERS])
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
async fn one_process_loads_for_all(url: &str, refused: impl AsyncFnOnce()) {
    let mut first = Peer::start(url, "60000");
    assert_eq!(first.says().await, "asking");
    assert_eq!(first.says().await, "loading");
    let mut others: Vec<Peer> = (0..2).map(|_| Peer::start(url, "60000")).collect();
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
    // Each of them has asked for a claim in vain; a lease needs no script.
    let refused = async || (server.calls(&["evalsha"])[0] >= 3).then_some(());
    one_process_loads_for_all(&server.url(), async || eventually("refused claims", refused).await).await;
}

/// A row is as good a claim as a record.
#[tokio::test]
async fn g3_with_claims_in_a_database_one_process_loads_for_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = MariaDb::start().await;
    let sqlite = format!("sqlite://{}", folder.path().join("cache").display());
    for url in [sqlite, database.url()] {
        one_process_loads_for_all(&url, async || ()).await;
    }
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
