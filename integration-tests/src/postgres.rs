//! Installs and runs PostgreSQL.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    sync::Weak,
    time::Duration,
};

use tokio::sync::Mutex;

use crate::{
    database_server::{DatabaseServer, Product},
    server_process::{finish, is_root, path_text, program},
};

/// A PostgreSQL server, with a database `postgres`.
pub type Postgres = DatabaseServer<PostgresProduct>;

/// Runs a PostgreSQL server.
#[derive(Debug)]
pub struct PostgresProduct;

impl Postgres {
    /// Makes every COMMIT that wrote something hang, as while the synchronous standby is away.
    /// Reads go on.
    pub async fn hold_commits(&self) {
        self.configure("synchronous_standby_names = 'away'").await;
    }

    /// Lets the commits go on after [`hold_commits`](Self::hold_commits): each takes effect now.
    pub async fn release_commits(&self) {
        self.configure("synchronous_standby_names = ''").await;
    }

    /// Restarts it as a standby, as after a failover to another server.
    pub fn demote(&mut self) {
        self.kill();
        fs::write(self.directory().join("data/standby.signal"), "").expect("a file");
        self.restart();
    }

    /// Changes a setting of the running server. It takes effect a moment later.
    async fn configure(&self, setting: &str) {
        self.sql(&format!("ALTER SYSTEM SET {setting}")).await;
        self.sql("SELECT pg_reload_conf()").await;
    }
}

impl Product for PostgresProduct {
    const SCHEME: &'static str = "postgres";
    const DATABASE: &'static str = "postgres";
    const NOW: &'static str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

    fn install(directory: &str) {
        let password = format!("{directory}/password");
        fs::write(&password, "hunter2").expect("a file");
        if is_root() {
            finish(Command::new("chown").args(["-R", "postgres", directory]));
        }
        let mut command = Self::as_user();
        command.push(path_text(&program("initdb", "postgresql")).to_owned());
        // The password goes over the wire as it is: to prove its knowledge takes an unoptimized
        // client a tenth of a second.
        command.extend(
            ["--no-sync", "--username=app", "--auth=password", "--encoding=UTF8", "--locale=C"].map(str::to_owned),
        );
        command.extend([format!("--pgdata={directory}/data"), format!("--pwfile={password}")]);
        finish(Command::new(&command[0]).args(&command[1..]));
    }

    /// Returns the words that change root to the user that the package has created.
    fn as_user() -> Vec<String> {
        if !is_root() {
            return Vec::new();
        }
        let setpriv = program("setpriv", "util-linux");
        [path_text(&setpriv), "--reuid=postgres", "--regid=postgres", "--init-groups"].map(str::to_owned).to_vec()
    }

    fn command(directory: &str, port: u16) -> Vec<String> {
        let mut command = vec![path_text(&program("postgres", "postgresql")).to_owned()];
        command.extend(["-D".into(), format!("{directory}/data")]);
        for setting in [
            &format!("port={port}"),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            // Nothing here must outlive a crash of the machine.
            "fsync=off",
        ] {
            command.extend(["-c".into(), setting.to_owned()]);
        }
        command
    }

    /// Returns true if it asks the user `app` for the password.
    fn answers(port: u16) -> bool {
        let Ok(mut wire) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        let _ = wire.set_read_timeout(Some(Duration::from_secs(1)));
        let parameters = b"\0\x03\0\0user\0app\0database\0postgres\0\0";
        let length = u32::try_from(parameters.len() + 4).expect("a short greeting").to_be_bytes();
        let mut answer = [0];
        // `R` asks for the password; `E` would be an error, such as that it is still starting.
        wire.write_all(&[&length[..], parameters].concat()).is_ok()
            && wire.read_exact(&mut answer).is_ok()
            && answer == *b"R"
    }

    fn shared() -> &'static Mutex<Weak<Postgres>> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());
        &SHARED
    }
}
