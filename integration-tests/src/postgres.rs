//! A PostgreSQL server of one's own.

use std::{fs, process::Command, sync::Arc};

use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::{
    server_process::{ServerProcess, finish, free_port, is_root, program},
    skew::MovableClock,
};

/// A PostgreSQL server on a free port of the loopback, with data of its own. It ends with this
/// value.
///
/// There is a database `postgres` and a user `app` with the password `hunter2`, who may do
/// everything.
#[derive(Debug)]
pub struct Postgres {
    process: ServerProcess,
    clock: Option<MovableClock>,
    _directory: TempDir,
}

impl Postgres {
    /// A server.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with these settings besides, such as `max_connections=5`.
    pub async fn start_with(settings: &[&str]) -> Self {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        tokio::task::spawn_blocking(move || Self::launch(&settings, false)).await.expect("a server")
    }

    /// A server whose wall clock can be set, see [`set_clock`](Self::set_clock).
    pub async fn start_with_clock() -> Self {
        tokio::task::spawn_blocking(|| Self::launch(&[], true)).await.expect("a server")
    }

    /// Makes the wall clock of the server wrong by so many seconds; its monotonic clock is right.
    pub fn set_clock(&self, seconds: i64) {
        self.clock.as_ref().expect("a server that was started with a clock").set(seconds);
    }

    /// The server that the tests of this process share. It ends when nobody holds it.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<std::sync::Weak<Postgres>> = Mutex::const_new(std::sync::Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    fn launch(settings: &[String], movable: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let dir = directory.path().to_str().expect("a directory of text");
        let password = format!("{dir}/password");
        fs::write(&password, "hunter2").expect("a file");
        let mut prefix: Vec<String> = Vec::new();
        if is_root() {
            // It refuses to run as root; the package has brought a user for it.
            let own = ["-R", "postgres", dir];
            finish(Command::new("chown").args(own));
            let setpriv = program("setpriv", "util-linux");
            prefix.push(setpriv.to_str().expect("a path of text").to_owned());
            prefix.extend(["--reuid=postgres", "--regid=postgres", "--init-groups"].map(str::to_owned));
        }
        // The password goes over the wire as it is: to prove its knowledge takes an unoptimized
        // client a tenth of a second.
        let initdb = program("initdb", "postgresql");
        let mut words = prefix.clone();
        words.push(initdb.to_str().expect("a path of text").to_owned());
        words.extend(
            ["--no-sync", "--username=app", "--auth=password", "--encoding=UTF8", "--locale=C"].map(str::to_owned),
        );
        words.extend([format!("--pgdata={dir}/data"), format!("--pwfile={password}")]);
        finish(Command::new(&words[0]).args(&words[1..]));
        let port = free_port();
        let clock = movable.then(|| MovableClock::new(directory.path().join("clock")));
        let mut command = prefix;
        command.extend(clock.iter().flat_map(MovableClock::prefix));
        command.push(program("postgres", "postgresql").to_str().expect("a path of text").to_owned());
        command.extend(["-D".into(), format!("{dir}/data")]);
        let own = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".into(),
            "unix_socket_directories=".into(),
            // Nothing here must outlive a crash of the machine.
            "fsync=off".into(),
        ];
        for setting in own.iter().chain(settings) {
            command.extend(["-c".into(), setting.clone()]);
        }
        let process = ServerProcess::start(command, port, directory.path().join("log"), answers);
        Self { process, clock, _directory: directory }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.process.port()
    }

    /// `postgres://app:hunter2@127.0.0.1:<port>/postgres`.
    pub fn url(&self) -> String {
        self.url_as("app:hunter2", "postgres")
    }

    /// The URL for this user and database.
    pub fn url_as(&self, login: &str, rest: &str) -> String {
        format!("postgres://{login}@127.0.0.1:{}/{rest}", self.port())
    }

    /// Stops it in its tracks, as a hanging server (`SIGSTOP`), all its processes.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Lets it go on after [`stop`](Self::stop).
    pub fn resume(&self) {
        self.process.signal_all(Signal::CONT);
    }

    /// Makes every COMMIT that wrote something hang, as while the synchronous standby is away.
    /// Reads go on.
    pub async fn hold_commits(&self) {
        self.configure("synchronous_standby_names = 'away'").await;
    }

    /// Lets the commits go on after [`hold_commits`](Self::hold_commits): each takes effect now.
    pub async fn release_commits(&self) {
        self.configure("synchronous_standby_names = ''").await;
    }

    /// Changes a setting of the running server. It takes effect a moment later.
    async fn configure(&self, setting: &str) {
        let mut wire = PgConnection::connect(&self.url()).await.expect("a connection");
        for statement in [format!("ALTER SYSTEM SET {setting}"), "SELECT pg_reload_conf()".to_owned()] {
            wire.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.expect("a setting");
        }
    }

    /// Kills it (`SIGKILL`), all its processes.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        self.process.restart(answers);
    }
}

/// Whether it is ready: to a request for TLS it answers that it has none, and to one it lets in,
/// that it wants a password.
fn answers(port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut wire) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = wire.set_read_timeout(Some(std::time::Duration::from_secs(1)));
    let parameters = b"\0\x03\0\0user\0app\0database\0postgres\0\0";
    let length = u32::try_from(parameters.len() + 4).expect("a short greeting").to_be_bytes();
    let mut answer = [0];
    // `R` asks for the password; `E` would be an error, such as that it is still starting.
    wire.write_all(&[&length[..], parameters].concat()).is_ok()
        && wire.read_exact(&mut answer).is_ok()
        && answer == *b"R"
}
