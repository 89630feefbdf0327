//! The service as a process of its own, and a client.
#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "../../src/bin/load/client.rs"]
mod client;

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use integration_tests::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

pub(crate) use self::client::Client;

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running service at a free port of the loopback. It is killed with this value.
pub(crate) struct Instance {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Log,
}

/// The lines of the log so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

impl Instance {
    /// Starts a service with these settings, and waits until it listens.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let mut child = spawn(&[&[("LISTEN", "127.0.0.1:0")], settings].concat());
        let log = Log::default();
        let mut lines = lines(&mut child);
        let listening = async {
            while let Some(line) = lines.next_line().await.expect("a log") {
                let address = line.split_once("listening at http://").map(|(_, address)| address.to_owned());
                log.push(line);
                if let Some(address) = address {
                    return address.parse().expect("an address");
                }
            }
            panic!("the service did not start:\n{}", log.text());
        };
        let address = timeout(PATIENCE, listening).await.expect("the service listens");
        let rest = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                rest.push(line);
            }
        });
        Self { child, address, log }
    }

    /// Starts a service that is to fail, and returns its exit code and its log.
    pub(crate) async fn fail(settings: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut child = spawn(&[&[("LISTEN", "127.0.0.1:0")], settings].concat());
        let mut lines = lines(&mut child);
        let mut log = Vec::new();
        let ended = async {
            while let Some(line) = lines.next_line().await.expect("a log") {
                log.push(line);
            }
            child.wait().await.expect("an exit code").code()
        };
        let code = timeout(PATIENCE, ended).await.expect("the service ends");
        (code, log.join("\n"))
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await.expect("a connection")
    }

    /// Sends a request over a connection of its own. Returns the status, and the body as JSON or, if
    /// it is none, as text.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let response = self.client().await.send(method, path, body).await.expect("a response");
        let text = || Value::String(String::from_utf8_lossy(&response.body).into_owned());
        (response.status, serde_json::from_slice(&response.body).unwrap_or_else(|_| text()))
    }

    pub(crate) async fn put(&self, id: u32, name: &str) -> u16 {
        self.send("PUT", &format!("/users/{id}"), Some(profile(name))).await.0
    }

    pub(crate) async fn get(&self, id: u32) -> (u16, Value) {
        self.send("GET", &format!("/users/{id}"), None).await
    }

    /// Waits until a read returns the user of this name.
    pub(crate) async fn shows(&self, id: u32, name: &str) {
        let what = format!("user {id} with the name {name} at {}", self.address);
        eventually(&what, async || (self.get(id).await == (200, user(id, name))).then_some(())).await;
    }

    /// Waits until the metrics have this line.
    pub(crate) async fn measures(&self, line: &str) {
        let has = async || self.metrics().await.lines().any(|shown| shown == line).then_some(());
        eventually(line, has).await;
    }

    pub(crate) async fn metrics(&self) -> String {
        let response = self.client().await.send("GET", "/metrics", None).await.expect("a response");
        String::from_utf8_lossy(&response.body).into_owned()
    }

    /// Waits until the log has this text.
    pub(crate) async fn logs(&self, text: &str) {
        eventually(text, async || self.log.text().contains(text).then_some(())).await;
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Tells it to end (SIGTERM).
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.expect("a running process"), Signal::TERM).expect("a signal");
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("the service ends").expect("an exit code")
    }
}

/// A database in this directory, for `DATABASE_URL`.
pub(crate) fn sqlite(directory: &TempDir) -> String {
    format!("sqlite://{}?mode=rwc", directory.path().join("users.db").display())
}

/// The body of a PUT.
pub(crate) fn profile(name: &str) -> Value {
    json!({ "name": name, "email": "ada@example.com" })
}

/// The body of the response to a GET.
pub(crate) fn user(id: u32, name: &str) -> Value {
    json!({ "id": id, "name": name, "email": "ada@example.com" })
}

fn spawn(settings: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_axum-service"));
    for name in ["DATABASE_URL", "REDIS_URL"] {
        command.env_remove(name);
    }
    command.envs(settings.iter().copied()).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().expect("the service starts")
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStderr>> {
    BufReader::new(child.stderr.take().expect("a log")).lines()
}
