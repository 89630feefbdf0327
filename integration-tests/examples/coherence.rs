//! Four processes with memory over one Redis, whose connections, server and processes fail at
//! random: `cargo run --release --example coherence -- <seconds> [loss] [kills]`.
//!
//! Each process reads all keys and writes or deletes its own; another program writes and deletes
//! keys, too. Values turn stale soon, and loaders fail, so stale values are served. Some keys are
//! hardly ever read. Each value tells which write made it. The parent compares all values that were served
//! from memory with all writes, and prints how old they were. It fails if one was older than W.
//!
//! With `loss`, one in 100 pieces of data on the wire is lost, which TCP repairs 200 ms later. With
//! `kills`, the only fault is that the server is killed (`kill -9`) and started again, about once per
//! second, half of the times with old data.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use cache_chain::{ChainCache, ReadThrough, Source, redis::RedisStore, stretto::StrettoStore};
use cache_core::DelegateCache;
use integration_tests::{CutProxy, RedisServer};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};

const PROCESSES: u64 = 4;
const KEYS: u64 = 60;
/// The first keys are idle: one in a thousand reads is of them.
const IDLE: u64 = 20;
/// W in microseconds, with the resolution of the clocks.
const WINDOW: u64 = 1_500_000;

/// The microseconds by the clock that all processes share.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1000).expect("a time")
}

/// A write: its key, its number, and when it had ended, 0 if its outcome is unknown. Numbers of one
/// key are in the order of its writes.
type Write = (u64, u64, u64);
/// A read from memory: its key, the number of the write that made the value, and when it began.
type Read = (u64, u64, u64);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["process", index, url, seconds, log] => {
            let number = |text: &str| text.parse().expect("a number");
            run_process(number(index), url, Duration::from_secs(number(seconds)), Path::new(log)).await;
        }
        [seconds, ref rest @ ..] => {
            let seconds = seconds.parse().expect("a number of seconds");
            run_all(seconds, rest.contains(&"loss"), rest.contains(&"kills")).await;
        }
        [] => panic!("coherence <seconds> [loss] [kills]"),
    }
}

/// Runs one process of the service.
async fn run_process(index: u64, url: &str, time: Duration, log: &Path) {
    let redis = RedisStore::builder(url).namespace("n").connect_lazy().expect("a store");
    let memory = StrettoStore::new(10_000).expect("memory");
    let stale = ReadThrough::new().stale_for(Duration::from_secs(3600)).no_failure_cooldown();
    let tiers = ChainCache::builder().tier(memory).tier(redis).default_ttl(Duration::from_millis(200));
    let chain: ChainCache<u64> = tiers.read_through(stale).build().expect("a chain");
    // Without a stream, entries are served as long as they live.
    while !chain.stats().coherence.trusted {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let end = now() + u64::try_from(time.as_micros()).expect("a short time");
    let readers: Vec<_> = (0..4).map(|_| tokio::spawn(read(chain.clone(), end))).collect();
    let writes = tokio::spawn(write(index, end, move |key, value| {
        let chain = chain.clone();
        async move {
            match value {
                Some(value) => chain.set(key, value).await.is_ok(),
                None => chain.del(key).await.is_ok(),
            }
        }
    }));
    let mut reads = Vec::new();
    for reader in readers {
        reads.extend(reader.await.expect("a reader ends"));
    }
    save(log, &reads, &writes.await.expect("a writer ends"));
}

async fn read(chain: ChainCache<u64>, end: u64) -> Vec<Read> {
    let memory = Source::Tier("L1 stretto".into());
    let mut reads = Vec::new();
    while now() < end {
        for _ in 0..20 {
            let is_idle = fastrand::u32(..1000) == 0;
            let key = if is_idle { fastrand::u64(..IDLE) } else { fastrand::u64(IDLE..KEYS) };
            let began = now();
            let fails = || async { Err::<u64, _>(std::io::Error::other("the origin is down")) };
            if let Ok(found) = chain.get_or_load_detailed(key, fails).await
                && let (true, Some(value)) = (found.source == memory, found.value)
            {
                reads.push((key, value, began));
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reads
}

/// Writes and deletes the keys of this writer. `change` sets a value or deletes it.
async fn write<F: Future<Output = bool>>(of: u64, end: u64, change: impl Fn(u64, Option<u64>) -> F) -> Vec<Write> {
    let own: Vec<u64> = (0..KEYS).filter(|key| key % (PROCESSES + 1) == of).collect();
    let mut number = 0;
    let mut writes = Vec::new();
    while now() < end {
        number += 1;
        let key = own[fastrand::usize(..own.len())];
        let is_done = change(key, (fastrand::u8(..10) < 7).then_some(number)).await;
        writes.push((key, number, if is_done { now() } else { 0 }));
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..30))).await;
    }
    writes
}

fn save(log: &Path, reads: &[Read], writes: &[Write]) {
    let mut lines = Vec::new();
    for (kind, of) in [("r", reads), ("w", writes)] {
        lines.extend(of.iter().map(|(key, number, time)| format!("{kind} {key} {number} {time}")));
    }
    fs::write(log, lines.join("\n")).expect("the log is written");
}

fn load(log: &Path, reads: &mut Vec<Read>, writes: &mut Vec<Write>) {
    for line in fs::read_to_string(log).expect("a process has written its log").lines() {
        let (kind, numbers) = line.split_once(' ').expect("a line");
        let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().expect("a number")).collect();
        let of = (numbers[0], numbers[1], numbers[2]);
        if kind == "r" { reads.push(of) } else { writes.push(of) }
    }
}

/// Runs all processes and the faults, and compares what they have seen.
async fn run_all(seconds: u64, loses: bool, kills: bool) {
    let mut server = RedisServer::start_with(&["--dbfilename", "dump.rdb"]).await;
    let logs = tempfile::tempdir().expect("a folder");
    let (mut proxies, mut children, mut paths) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..PROCESSES {
        let proxy = CutProxy::start(server.port()).await;
        if loses {
            proxy.lose_one_in(100);
        }
        let log = logs.path().join(index.to_string());
        let program = std::env::current_exe().expect("this program");
        let arguments = ["process", &index.to_string(), &proxy.url(), &seconds.to_string()].map(str::to_owned);
        children.push(Command::new(program).args(arguments).arg(&log).spawn().expect("a process"));
        proxies.push(proxy);
        paths.push(log);
    }
    let end = now() + seconds * 1_000_000;
    let other = DelegateCache::new(
        RedisStore::<u64>::builder(server.url())
            .namespace("n")
            .timeout(Duration::from_secs(10))
            .connect()
            .await
            .expect("Redis"),
    );
    let others = write(PROCESSES, end, |key, value| {
        let other = other.clone();
        async move {
            match value {
                Some(value) => other.set(key, value).await.is_ok(),
                None => other.del(key).await.is_ok(),
            }
        }
    });
    let faults =
        async { if kills { kill(&mut server, end).await } else { harm(&server, &proxies, &children, end).await } };
    let (writes, faults) = tokio::join!(others, faults);
    let statuses: Vec<_> = children.iter_mut().map(|child| child.wait().expect("a process ends")).collect();
    assert!(statuses.iter().all(std::process::ExitStatus::success), "{statuses:?}");
    let (mut reads, mut writes) = (Vec::new(), writes);
    for path in &paths {
        load(path, &mut reads, &mut writes);
    }
    println!("{PROCESSES} processes, {seconds} s, loss: {loses}; {faults}; {} writes", writes.len());
    report(&reads, &writes);
}

/// Cuts and forgets connections, and suspends processes and the server.
async fn harm(server: &RedisServer, proxies: &[CutProxy], children: &[Child], end: u64) -> String {
    let mut counts = [0; 4];
    while now() + 3_000_000 < end {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(300..1500))).await;
        let (at, kind) = (fastrand::usize(..proxies.len()), fastrand::usize(..4));
        counts[kind] += 1;
        let pause = Duration::from_millis(fastrand::u64(10..2500));
        match kind {
            0 => proxies[at].hang_up(),
            1 => proxies[at].forget(),
            2 => {
                let pid = Pid::from_child(&children[at]);
                kill_process(pid, Signal::STOP).expect("the process runs");
                tokio::time::sleep(pause).await;
                kill_process(pid, Signal::CONT).expect("the process is stopped");
            }
            _ => {
                server.stop();
                tokio::time::sleep(pause).await;
                server.resume();
            }
        }
    }
    let [cut, forgotten, processes, servers] = counts;
    format!("connections cut {cut} times, half-open {forgotten}; stopped: processes {processes}, server {servers}")
}

/// Kills the server and starts it again, with the data of its last `SAVE` or without data.
async fn kill(server: &mut RedisServer, end: u64) -> String {
    let mut counts = [0; 2];
    while now() + 3_000_000 < end {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(300..1500))).await;
        let has_data = fastrand::bool();
        counts[usize::from(has_data)] += 1;
        if has_data {
            server.cli(&["SAVE"]);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(50..500))).await;
        }
        server.kill();
        if !has_data {
            // There may be no file.
            let _ = fs::remove_file(server.directory().join("dump.rdb"));
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..300))).await;
        server.restart();
    }
    format!("the server was killed {} times, {} of them came back with old data", counts[0] + counts[1], counts[1])
}

/// Prints how old the values from memory were.
fn report(reads: &[Read], writes: &[Write]) {
    let mut ends = HashMap::<u64, Vec<(u64, u64)>>::new();
    for (key, number, end) in writes.iter().filter(|(.., end)| *end > 0) {
        ends.entry(*key).or_default().push((*number, *end));
    }
    for ends in ends.values_mut() {
        ends.sort_unstable();
    }
    let age = |(key, number, began): &Read| {
        let ends = ends.get(key).map_or(&[][..], Vec::as_slice);
        // The value was replaced at the latest when the next write with a known outcome had ended.
        let next = ends.partition_point(|(of, _)| of <= number);
        ends.get(next).map_or(0, |(_, end)| began.saturating_sub(*end))
    };
    let mut ages: Vec<u64> = reads.iter().map(age).collect();
    ages.sort_unstable();
    let at = |fraction: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (ages.len() as f64 * fraction) as usize;
        ages.get(index.min(ages.len().saturating_sub(1))).map_or(0.0, |age| *age as f64 / 1000.0)
    };
    let (outdated, late) =
        (ages.iter().filter(|age| **age > 0).count(), ages.iter().filter(|age| **age > WINDOW).count());
    println!("{} values from memory, {outdated} of them replaced before the read", ages.len());
    println!("age in ms: p50 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}", at(0.5), at(0.99), at(0.999), at(1.0));
    println!("older than W: {late}");
    assert!(late == 0 && !ages.is_empty(), "the guarantee was broken");
}
