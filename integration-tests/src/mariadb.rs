//! A MariaDB server of one's own.

use std::{fs, process::Command, sync::Arc};

use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::{
    server_process::{ServerProcess, finish, free_port, is_root, program},
    skew::MovableClock,
};

/// A MariaDB server on a free port of the loopback, with data of its own. It ends with this value.
///
/// There is a database `cache` and a user `app` with the password `hunter2`, who may do everything.
#[derive(Debug)]
pub struct MariaDb {
    process: ServerProcess,
    clock: Option<MovableClock>,
    _directory: TempDir,
}

impl MariaDb {
    /// A server.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with these arguments besides.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        tokio::task::spawn_blocking(move || Self::launch(&arguments, false)).await.expect("a server")
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
        static SHARED: Mutex<std::sync::Weak<MariaDb>> = Mutex::const_new(std::sync::Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    fn launch(arguments: &[String], movable: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let dir = directory.path().to_str().expect("a directory of text");
        let server = program("mariadbd", "mariadb-server");
        // Nothing here must outlive a crash of the machine.
        let mut common = vec!["--no-defaults".to_owned(), format!("--datadir={dir}/data")];
        // A server that starts removes what looks like leftovers in its directory for temporary
        // files.
        common.push(format!("--tmpdir={dir}"));
        common.extend(["--innodb-flush-method=nosync".into(), "--innodb-log-file-size=8M".into()]);
        if is_root() {
            common.push("--user=root".into());
        }
        let install = program("mariadb-install-db", "mariadb-server");
        finish(Command::new(install).args(&common).args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--cross-bootstrap",
        ]));
        let init = format!("{dir}/init.sql");
        let statements = "CREATE DATABASE IF NOT EXISTS cache;\n\
                          CREATE USER IF NOT EXISTS app@'127.0.0.1' IDENTIFIED BY 'hunter2';\n\
                          GRANT ALL ON *.* TO app@'127.0.0.1' WITH GRANT OPTION;\n";
        fs::write(&init, statements).expect("a file");
        let port = free_port();
        let clock = movable.then(|| MovableClock::new(directory.path().join("clock")));
        let mut command: Vec<String> = clock.iter().flat_map(MovableClock::prefix).collect();
        command.push(server.to_str().expect("a path of text").to_owned());
        command.extend(common);
        command.extend([
            format!("--port={port}"),
            "--bind-address=127.0.0.1".into(),
            format!("--socket={dir}/socket"),
            format!("--pid-file={dir}/pid"),
            format!("--init-file={init}"),
            "--skip-name-resolve".into(),
            "--innodb-buffer-pool-size=64M".into(),
            // The default of MariaDB, on which tests depend. MySQL's is four times as much.
            "--max-allowed-packet=16M".into(),
        ]);
        command.extend_from_slice(arguments);
        let process = ServerProcess::start(command, port, directory.path().join("log"), answers);
        Self { process, clock, _directory: directory }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.process.port()
    }

    /// `mysql://app:hunter2@127.0.0.1:<port>/cache`.
    pub fn url(&self) -> String {
        self.url_as("app:hunter2", "cache")
    }

    /// The URL for this user and database.
    pub fn url_as(&self, login: &str, rest: &str) -> String {
        format!("mysql://{login}@127.0.0.1:{}/{rest}", self.port())
    }

    /// Stops it in its tracks, as a hanging server (`SIGSTOP`).
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Lets it go on after [`stop`](Self::stop).
    pub fn resume(&self) {
        self.process.signal_all(Signal::CONT);
    }

    /// Makes every COMMIT that wrote something hang until the returned connection is closed.
    /// Statements and reads go on.
    pub async fn hold_commits(&self) -> MySqlConnection {
        let mut wire = MySqlConnection::connect(&self.url()).await.expect("a connection");
        for stage in ["START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT"] {
            let statement = format!("BACKUP STAGE {stage}");
            wire.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.expect("a stage of a backup");
        }
        wire
    }

    /// Kills it (`SIGKILL`).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        self.process.restart(answers);
    }
}

/// Whether it greets.
fn answers(port: u16) -> bool {
    use std::io::Read as _;
    let Ok(mut wire) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = wire.set_read_timeout(Some(std::time::Duration::from_secs(1)));
    wire.read_exact(&mut [0]).is_ok()
}
