//! A database server that a test has for itself.

use std::{
    fmt::Debug,
    marker::PhantomData,
    path::Path,
    sync::{Arc, Weak},
};

use tokio::sync::Mutex;

use crate::{
    server_process::{ServerProcess, path_text},
    skew::MovableClock,
    sql,
};

/// A database product: how to install its server, how to start it, and how to connect to it.
pub trait Product: Debug + Send + Sync + Sized + 'static {
    /// The scheme of the URLs.
    const SCHEME: &'static str;

    /// The database that the user `app` connects to.
    const DATABASE: &'static str;

    /// The expression for the server's clock in Unix milliseconds, in other words than the store's.
    const NOW: &'static str;

    /// Creates the data in this directory.
    fn install(directory: &str);

    /// Returns the words in front of the server's command that change the user, if the server
    /// refuses to run as this one.
    fn as_user() -> Vec<String> {
        Vec::new()
    }

    /// Returns the command of a server that listens on this port of the loopback only. The user
    /// `app` with the password `hunter2` may do everything.
    fn command(directory: &str, port: u16) -> Vec<String>;

    /// Returns true if the server on this port is ready.
    fn answers(port: u16) -> bool;

    /// Returns the slot for the server that the tests of this process share. A generic function
    /// cannot have a static of its own for each product.
    fn shared() -> &'static Mutex<Weak<DatabaseServer<Self>>>;
}

/// A database server on a free port of the loopback, with its own data. It ends with this value.
///
/// There is a user `app` with the password `hunter2`, who may do everything.
#[derive(Debug)]
pub struct DatabaseServer<P> {
    process: ServerProcess,
    clock: Option<MovableClock>,
    product: PhantomData<P>,
}

impl<P: Product> DatabaseServer<P> {
    /// Starts a server.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these additional arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        tokio::task::spawn_blocking(move || Self::launch(&arguments, false)).await.expect("a server")
    }

    /// Starts a server whose wall clock can be set, see [`set_clock`](Self::set_clock).
    pub async fn start_with_clock() -> Self {
        tokio::task::spawn_blocking(|| Self::launch(&[], true)).await.expect("a server")
    }

    /// Returns the server that the tests of this process share. It ends with the last handle.
    pub async fn shared() -> Arc<Self> {
        let mut shared = P::shared().lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    fn launch(arguments: &[String], movable: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = path_text(directory.path()).to_owned();
        P::install(&path);
        let clock = movable.then(|| MovableClock::new(directory.path().join("clock")));
        let clock_prefix = clock.as_ref().map(MovableClock::prefix).unwrap_or_default();
        let command = |port| [&P::as_user(), &clock_prefix, &P::command(&path, port), arguments].concat();
        let process = ServerProcess::start(directory, command, P::answers);
        Self { process, clock, product: PhantomData }
    }

    /// Returns the directory of its data.
    pub(crate) fn directory(&self) -> &Path {
        self.process.directory()
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.process.port()
    }

    /// Returns the URL for the user `app`.
    pub fn url(&self) -> String {
        self.url_as("app:hunter2", P::DATABASE)
    }

    /// Returns the URL for this login and database: `<scheme>://<login>@127.0.0.1:<port>/<rest>`.
    pub fn url_as(&self, login: &str, rest: &str) -> String {
        format!("{}://{login}@127.0.0.1:{}/{rest}", P::SCHEME, self.port())
    }

    /// Runs statements as an operator would.
    pub async fn sql(&self, statements: &str) {
        sql::execute(&self.url(), statements).await;
    }

    /// Returns the time by the server's wall clock in Unix milliseconds.
    pub async fn now(&self) -> i64 {
        sql::number(&self.url(), &format!("SELECT {}", P::NOW)).await.expect("a time")
    }

    /// Makes the server's wall clock wrong by so many seconds. Its monotonic clock stays right.
    pub fn set_clock(&self, seconds: i64) {
        self.clock.as_ref().expect("a server that was started with a clock").set(seconds);
    }

    /// Suspends all its processes, as a server that hangs (`SIGSTOP`).
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Resumes it after [`stop`](Self::stop).
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Kills all its processes (`SIGKILL`).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        self.process.restart();
    }
}
