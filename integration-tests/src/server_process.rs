//! A server as a process that ends with its owner.

use std::{
    fs,
    net::TcpListener,
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A running server. It ends with this value and can be started again.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    command: Vec<String>,
    port: u16,
    answers: fn(u16) -> bool,
    directory: TempDir,
}

impl ServerProcess {
    /// Starts a server on a free port of the loopback and waits until `answers` returns true. The
    /// directory is removed when the server ends.
    pub(crate) fn start(directory: TempDir, command: impl Fn(u16) -> Vec<String>, answers: fn(u16) -> bool) -> Self {
        let mut failure = String::new();
        // Another process may take the port before the server does.
        for _ in 0..5 {
            let port = free_port();
            let command = command(port);
            match launch(&command, port, directory.path(), answers) {
                Ok(child) => return Self { child, command, port, answers, directory },
                Err(why) => failure = why,
            }
        }
        panic!("{failure}");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Whether the server has neither ended nor been stopped.
    pub(crate) fn is_running(&self) -> bool {
        !stands_still(self.child.id())
    }

    /// Stops the server and the processes that it has forked, and waits until the last of their
    /// threads stands still.
    pub(crate) fn stop(&self) {
        let started = Instant::now();
        let stop = |pid: u32| {
            send(pid, Signal::STOP);
            while !stands_still(pid) {
                assert!(started.elapsed() < Duration::from_secs(20), "a thread of {pid} goes on after SIGSTOP");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        // The server first: then it forks no more.
        stop(self.child.id());
        children(self.child.id()).into_iter().for_each(stop);
    }

    /// Resumes the server and the processes that it has forked.
    pub(crate) fn resume(&self) {
        for pid in children(self.child.id()).into_iter().chain([self.child.id()]) {
            send(pid, Signal::CONT);
        }
    }

    /// Kills the server and the processes that it has forked.
    pub(crate) fn kill(&mut self) {
        for pid in children(self.child.id()) {
            send(pid, Signal::KILL);
        }
        // It may have ended already, and a stopped process can be killed.
        let _ = self.child.kill();
        self.child.wait().expect("the server has ended");
    }

    /// Starts the server again after [`kill`](Self::kill).
    pub(crate) fn restart(&mut self) {
        self.child = launch(&self.command, self.port, self.directory.path(), self.answers)
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Also when a test has panicked.
        self.kill();
    }
}

/// Starts a server and waits until it answers. Returns its log if it ends first.
fn launch(command: &[String], port: u16, directory: &Path, answers: fn(u16) -> bool) -> Result<Child, String> {
    let log = directory.join("log");
    let output = fs::File::create(&log).expect("a log");
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a log"))
        .stderr(output)
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", command[0]));
    let failure = || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        format!("{} did not come up:\n{log}", command.join(" "))
    };
    let started = Instant::now();
    while child.try_wait().is_ok_and(|ended| ended.is_none()) {
        if answers(port) {
            return Ok(child);
        }
        if started.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{}", failure());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(failure())
}

/// The processes whose parent is this one.
fn children(parent: u32) -> Vec<u32> {
    let parent_of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| parent_of(pid) == Some(parent)).collect()
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended.
        let _ = kill_process(pid, signal);
    }
}

/// Whether all threads of a process are stopped, or it has ended.
fn stands_still(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { return true };
        stat.rsplit_once(')').is_some_and(|(_, rest)| ["T", "Z", "X"].contains(&&rest.trim_start()[..1]))
    })
}

/// The ports that servers get. Linux takes those of outgoing connections from 32768 on: such a
/// connection can hold the port of a server that is down, and one to that very port connects to
/// itself.
const PORTS: Range<u16> = 12_000..32_000;

/// A port of the loopback that nothing uses, and that this process has not been given before.
pub fn free_port() -> u16 {
    static FIRST: LazyLock<u16> = LazyLock::new(|| fastrand::u16(PORTS));
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    for _ in PORTS {
        let offset = (*FIRST - PORTS.start).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + offset % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

/// Runs a program to its end.
pub(crate) fn finish(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", said(&output.stdout), said(&output.stderr));
}

/// Where a program is: on the path, or in one of the folders that Debian puts servers into.
///
/// # Panics
///
/// If it is nowhere, naming the package.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    folders.into_iter().map(|folder| folder.join(name)).find(|candidate| candidate.is_file()).unwrap_or_else(|| {
        panic!("these tests need {name}, see CONTRIBUTING (apt-get install {package})");
    })
}

/// Returns the path as text, for a command line.
pub(crate) fn path_text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// Whether this is the super-user, as whom PostgreSQL refuses to run and MariaDB must be told to.
pub(crate) fn is_root() -> bool {
    rustix::process::getuid().is_root()
}
