//! A Redis server that a test has for itself.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    redis_wire::{Reply, request},
    server_process::{ServerProcess, free_port, path_text, program},
};

/// The file with the settings of a server that reads them from one.
const FILE: &str = "redis.conf";

/// A Redis server on a free port of the loopback, in a directory of its own. It ends with this
/// value.
#[derive(Debug)]
pub struct RedisServer {
    process: ServerProcess,
    /// The password that [`cli`](Self::cli) and its like log in with.
    password: Option<String>,
}

impl RedisServer {
    /// Starts a server that persists nothing.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these additional arguments. `{dir}` in them is its directory, and each
    /// `{free_port}` another free port of the loopback.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        tokio::task::spawn_blocking(move || {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let path = path_text(directory.path()).to_owned();
            let process = ServerProcess::start(directory, |port| command(&path, port, &arguments), answers);
            Self { process, password: None }
        })
        .await
        .expect("a server")
    }

    /// Starts a server that reads its settings, one a line, from a file in its directory, and may
    /// change the file. `{dir}` and `{free_port}` in them are filled in. With `--sentinel` as the mode it is a
    /// sentinel. The password is the one that the settings require.
    pub(crate) async fn start_from_file(settings: &[String], mode: Option<&str>, password: Option<&str>) -> Self {
        let (settings, mode) = (settings.join("\n"), mode.map(str::to_owned));
        let process = tokio::task::spawn_blocking(move || {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let path = path_text(directory.path()).to_owned();
            let command = |port| {
                let file = format!("{path}/{FILE}");
                let own = format!("port {port}\nbind 127.0.0.1\ndir {path}\n");
                fs::write(&file, own + &filled_in(&settings, &path)).expect("a file");
                [path_text(&server_program()).to_owned(), file].into_iter().chain(mode.clone()).collect()
            };
            ServerProcess::start(directory, command, replies)
        });
        Self { process: process.await.expect("a server"), password: password.map(str::to_owned) }
    }

    /// Returns the port that it listens on without TLS.
    pub fn port(&self) -> u16 {
        self.process.port()
    }

    /// Returns `redis://127.0.0.1:<port>/`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }

    /// Returns the URL for this login, database and protocol:
    /// `redis://<login>@127.0.0.1:<port>/<rest>`.
    pub fn url_as(&self, login: &str, rest: &str) -> String {
        format!("redis://{login}@127.0.0.1:{}/{rest}", self.port())
    }

    /// Returns its directory.
    pub fn directory(&self) -> &Path {
        self.process.directory()
    }

    /// Whether it runs: it has neither ended nor been [stopped](Self::stop).
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Suspends it, as a server that hangs (`SIGSTOP`): it accepts connections and answers nothing.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Resumes it after [`stop`](Self::stop).
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Kills it (`SIGKILL`).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        self.process.restart();
    }

    /// The reply to a command as text, as an operator would see it who typed it into `redis-cli`.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let reply = self.raw(&arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// The reply to a command of any bytes, as it comes over the wire without its type.
    pub fn raw(&self, arguments: &[&[u8]]) -> Vec<u8> {
        self.request(arguments).expect("the server answers").into_bytes()
    }

    /// Sends a command and returns its reply.
    ///
    /// # Errors
    ///
    /// If the server is not there, or does not answer within 10 s.
    pub(crate) fn request(&self, arguments: &[&[u8]]) -> io::Result<Reply> {
        request(self.port(), self.password.as_deref(), arguments)
    }

    /// Returns a setting of a server that [reads it from a file](Self::start_from_file).
    pub(crate) fn setting_in_file(&self, name: &str) -> String {
        let file = fs::read_to_string(self.directory().join(FILE)).expect("a file with settings");
        let value = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("the file has no setting {name}")).to_owned()
    }

    /// Returns a setting of a server that runs.
    pub(crate) fn setting(&self, name: &str) -> String {
        let reply = self.request(&[b"CONFIG", b"GET", name.as_bytes()]).expect("the server answers");
        let value = reply.into_elements().pop().unwrap_or_else(|| panic!("the server has no setting {name}"));
        String::from_utf8(value).expect("a setting is text")
    }

    /// Sends a command. Returns its reply if the server runs and answers.
    pub(crate) fn answer(&self, arguments: &[&str]) -> Option<Reply> {
        let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        self.is_running().then(|| self.request(&arguments).ok()).flatten()
    }

    /// Whether it is a replica and has all that this primary has.
    pub(crate) fn has_data_of(&self, primary: &RedisServer) -> bool {
        // A primary holds back the writes after the snapshot until the replica acknowledges that, up to a second
        // later: https://github.com/redis/redis/blob/7.0.15/src/replication.c (replicaStartCommandStream).
        // The wait for more replicas than there are is itself one of those writes.
        let sent = primary.answer(&["WAIT", "99", "1"]).and_then(|_| primary.replication("master_repl_offset"));
        let offset = |text: String| text.parse::<u64>().ok();
        let (sent, got) = (sent.and_then(offset), self.replication("slave_repl_offset").and_then(offset));
        got.is_some_and(|got| sent.is_some_and(|sent| got >= sent))
            && self.replication("master_link_status").is_some_and(|status| status == "up")
            && self.replication("master_sync_in_progress").is_some_and(|status| status == "0")
    }

    /// Returns a field of `INFO replication`, if the server runs, answers and has it.
    pub(crate) fn replication(&self, field: &str) -> Option<String> {
        let info = self.answer(&["INFO", "replication"])?.into_bytes();
        let info = String::from_utf8_lossy(&info);
        info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned))
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

/// The command of `command|subcommand`, under which servers before Redis 7.0 count all its
/// subcommands.
pub fn command_of(command: &str) -> &str {
    command.split('|').next().unwrap_or(command)
}

/// Returns the command of a server that listens on this port of the loopback. The environment
/// variable `CACHE_TEST_REDIS_SERVER` names the program; without it, the command runs
/// `redis-server`.
fn command(directory: &str, port: u16, arguments: &[String]) -> Vec<String> {
    let server = server_program();
    let own = [path_text(&server), "--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", directory];
    let own = own.into_iter().chain(["--save", "", "--appendonly", "no"]).map(str::to_owned);
    own.chain(arguments.iter().map(|argument| filled_in(argument, directory))).collect()
}

fn filled_in(argument: &str, directory: &str) -> String {
    let mut argument = argument.replace("{dir}", directory);
    while argument.contains("{free_port}") {
        argument = argument.replacen("{free_port}", &free_port().to_string(), 1);
    }
    argument
}

fn server_program() -> PathBuf {
    env::var_os("CACHE_TEST_REDIS_SERVER").map_or_else(|| program("redis-server", "redis-server"), PathBuf::from)
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

/// Whether a Redis or a sentinel on this port answers, be it that one must log in. Newer sentinels do not
/// know `QUIT`.
fn replies(port: u16) -> bool {
    request(port, None, &[b"PING"]).is_ok_and(|reply| match reply {
        Reply::Text(text) => text == b"PONG",
        Reply::Error(error) => error.starts_with("NOAUTH"),
        Reply::Nothing | Reply::Array(_) => false,
    })
}
