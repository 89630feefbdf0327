//! Installs and runs MariaDB.

use std::{fs, io::Read as _, net::TcpStream, process::Command, sync::Weak, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};
use tokio::sync::Mutex;

use crate::{
    database_server::{DatabaseServer, Product},
    server_process::{finish, is_root, path_text, program},
};

/// A MariaDB server, with a database `cache`.
pub type MariaDb = DatabaseServer<MariaDbProduct>;

/// Runs a MariaDB server.
#[derive(Debug)]
pub struct MariaDbProduct;

impl MariaDb {
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
}

impl Product for MariaDbProduct {
    const SCHEME: &'static str = "mysql";
    const DATABASE: &'static str = "cache";
    const NOW: &'static str = "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)";

    fn install(directory: &str) {
        let install = program("mariadb-install-db", "mariadb-server");
        finish(Command::new(install).args(common_arguments(directory)).args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--cross-bootstrap",
        ]));
        let statements = "CREATE DATABASE IF NOT EXISTS cache;\n\
                          CREATE USER IF NOT EXISTS app@'127.0.0.1' IDENTIFIED BY 'hunter2';\n\
                          GRANT ALL ON *.* TO app@'127.0.0.1' WITH GRANT OPTION;\n";
        fs::write(format!("{directory}/init.sql"), statements).expect("a file");
    }

    fn command(directory: &str, port: u16) -> Vec<String> {
        let mut command = vec![path_text(&program("mariadbd", "mariadb-server")).to_owned()];
        command.extend(common_arguments(directory));
        command.extend([
            format!("--port={port}"),
            "--bind-address=127.0.0.1".into(),
            format!("--socket={directory}/socket"),
            format!("--pid-file={directory}/pid"),
            format!("--init-file={directory}/init.sql"),
            "--skip-name-resolve".into(),
            "--innodb-buffer-pool-size=64M".into(),
            // The default of MariaDB, on which tests depend. MySQL's is four times as much.
            "--max-allowed-packet=16M".into(),
        ]);
        command
    }

    /// Returns true if it sends a greeting.
    fn answers(port: u16) -> bool {
        let Ok(mut wire) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        let _ = wire.set_read_timeout(Some(Duration::from_secs(1)));
        wire.read_exact(&mut [0]).is_ok()
    }

    fn shared() -> &'static Mutex<Weak<MariaDb>> {
        static SHARED: Mutex<Weak<MariaDb>> = Mutex::const_new(Weak::new());
        &SHARED
    }
}

/// The arguments of the installation and of the server.
fn common_arguments(directory: &str) -> Vec<String> {
    let mut arguments = vec![
        "--no-defaults".to_owned(),
        format!("--datadir={directory}/data"),
        // A server that starts removes what looks like leftovers in its directory for temporary
        // files.
        format!("--tmpdir={directory}"),
        // Nothing here must outlive a crash of the machine.
        "--innodb-flush-method=nosync".into(),
        "--innodb-log-file-size=8M".into(),
    ];
    if is_root() {
        arguments.push("--user=root".into());
    }
    arguments
}
