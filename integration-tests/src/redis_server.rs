//! A Redis server of one's own.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A Redis server on a free port of the loopback, in a directory of its own. It ends with this
/// value.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
}

impl RedisServer {
    /// A server that persists nothing.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with these arguments besides. `{dir}` in them is its directory.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        tokio::task::spawn_blocking(move || {
            // Another process may take the port before the server does.
            let mut failure = String::new();
            for _ in 0..5 {
                let directory = tempfile::tempdir().expect("a temporary directory");
                let port = free_port();
                match launch(port, &arguments, directory.path()) {
                    Ok(child) => return Self { child, port, arguments, directory },
                    Err(log) => failure = log,
                }
            }
            panic!("{} did not come up:\n{failure}", program().display());
        })
        .await
        .expect("a server")
    }

    /// Where it listens, without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>/`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The URL for this user, database and protocol: `redis://<login>@127.0.0.1:<port>/<rest>`.
    pub fn url_as(&self, login: &str, rest: &str) -> String {
        format!("redis://{login}@127.0.0.1:{}/{rest}", self.port)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Stops it in its tracks, as a hanging server (`SIGSTOP`): it accepts connections and answers
    /// nothing.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`stop`](Self::stop).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the server takes a signal");
    }

    /// Kills it (`SIGKILL`).
    pub fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server has ended");
    }

    /// Starts it again on the same port after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        self.child = launch(self.port, &self.arguments, self.directory.path())
            .unwrap_or_else(|log| panic!("{} did not come up again:\n{log}", program().display()));
    }

    /// The reply to a command as text, as an operator would see it who typed it into `redis-cli`.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let reply = self.raw(&arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// The reply to a command of any bytes, as it comes over the wire without its type.
    pub fn raw(&self, arguments: &[&[u8]]) -> Vec<u8> {
        let mut wire = TcpStream::connect(("127.0.0.1", self.port)).expect("the server listens");
        wire.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut command = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            command.extend(format!("${}\r\n", argument.len()).into_bytes());
            command.extend_from_slice(argument);
            command.extend_from_slice(b"\r\n");
        }
        wire.write_all(&command).expect("the server reads");
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            wire.read_exact(&mut byte).expect("the server answers");
            line.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&line[1..line.len() - 2]).into_owned();
        match line[0] {
            b'$' if text == "-1" => b"(nil)".to_vec(),
            b'$' => {
                let mut bytes = vec![0; text.parse().expect("a length")];
                wire.read_exact(&mut bytes).expect("the whole reply");
                bytes
            }
            b'-' => format!("({text})").into_bytes(),
            _ => text.into_bytes(),
        }
    }

    /// How often each of these commands ran since the last `CONFIG RESETSTAT`.
    pub fn calls(&self, commands: &[&str]) -> Vec<u64> {
        let statistics = self.cli(&["INFO", "commandstats"]);
        let calls = |command: &str| -> Option<u64> {
            let start = format!("cmdstat_{command}:calls=");
            let line = statistics.lines().find_map(|line| line.strip_prefix(&start))?;
            line.split(',').next()?.parse().ok()
        };
        commands.iter().map(|command| calls(command).or_else(|| calls(command_of(command))).unwrap_or(0)).collect()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Also when a test has panicked. It may have ended already, and a stopped process can be
        // killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command of `command|subcommand`, under which servers before Redis 7.0 count all its
/// subcommands.
pub fn command_of(command: &str) -> &str {
    command.split('|').next().unwrap_or(command)
}

/// The server's program: what the environment variable `CACHE_TEST_REDIS_SERVER` names, else
/// `redis-server`.
fn program() -> PathBuf {
    env::var_os("CACHE_TEST_REDIS_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn launch(port: u16, arguments: &[String], directory: &Path) -> Result<Child, String> {
    let log = directory.join("log");
    let output = fs::File::create(&log).expect("a log");
    let dir = directory.to_str().expect("a directory of text");
    let server = program();
    let mut child = Command::new(&server)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", dir])
        .args(["--save", "", "--appendonly", "no"])
        .args(arguments.iter().map(|argument| argument.replace("{dir}", dir)))
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a log"))
        .stderr(output)
        .spawn()
        .unwrap_or_else(|error| {
            let server = server.display();
            panic!("these tests need {server}, see CONTRIBUTING (apt-get install redis-server): {error}")
        });
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) && child.try_wait().is_ok_and(|ended| ended.is_none()) {
        if answers(port) {
            return Ok(child);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(fs::read_to_string(log).unwrap_or_default())
}

/// Whether a Redis on this port answers, be it that one must log in. It has closed the connection,
/// so that the test finds no client but its own.
fn answers(port: u16) -> bool {
    let Ok(mut wire) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = wire.set_read_timeout(Some(Duration::from_secs(1)));
    let mut replies = Vec::new();
    wire.write_all(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n").is_ok()
        && wire.read_to_end(&mut replies).is_ok()
        && (replies.starts_with(b"+PONG") || replies.starts_with(b"-NOAUTH"))
}
