//! A Prometheus that a test has for itself.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::server_process::{ServerProcess, finish, path_text, program};

/// A Prometheus on a free port of the loopback, with its data in a directory of its own. It ends with
/// this value.
#[derive(Debug)]
pub struct PrometheusServer(ServerProcess);

impl PrometheusServer {
    /// Starts a server with these files, by their names, in its directory. One of them is
    /// `prometheus.yml`.
    pub async fn start(files: &[(&str, String)]) -> Self {
        let files: Vec<(String, String)> =
            files.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect();
        tokio::task::spawn_blocking(move || {
            let directory = tempfile::tempdir().expect("a temporary directory");
            for (name, text) in files {
                fs::write(directory.path().join(name), text).expect("a file");
            }
            let path = path_text(directory.path()).to_owned();
            Self(ServerProcess::start(directory, |port| command(&path, port), is_ready))
        })
        .await
        .expect("a server")
    }

    /// Returns the address of its HTTP API.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.0.port()))
    }
}

/// Lets `promtool` check a file, such as by `check rules`.
///
/// # Panics
///
/// If it finds a fault, with what it says.
pub fn promtool(arguments: &[&str], file: &Path) {
    finish(Command::new(program("promtool", "prometheus")).args(arguments).arg(file));
}

fn command(directory: &str, port: u16) -> Vec<String> {
    vec![
        path_text(&program("prometheus", "prometheus")).to_owned(),
        format!("--config.file={directory}/prometheus.yml"),
        format!("--storage.tsdb.path={directory}/data"),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ]
}

fn is_ready(port: u16) -> bool {
    let Ok(mut wire) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = wire.set_read_timeout(Some(Duration::from_secs(1)));
    let mut reply = Vec::new();
    wire.write_all(b"GET /-/ready HTTP/1.0\r\n\r\n").is_ok()
        && wire.read_to_end(&mut reply).is_ok()
        && reply.starts_with(b"HTTP/1.0 200")
}
