//! What callers observe while slots of a Redis Cluster move and its nodes fail: `cargo run --release
//! --example cluster [-- <seconds of each phase>]`.
//!
//! Two chains, as of two instances of a service, have memory above a private cluster of three primaries and
//! three replicas. Each chain reads all keys, and writes and deletes its own; another program changes others by
//! plain commands. Loaders read the origin of the values, which can always be reached. Shown are the failures
//! and latencies of each phase, and how old the values were that memory and Redis served. The process fails if
//! one was older than W.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use cache_chain::{
    ChainCache, Error, ErrorKind, Found, Result, Source,
    redis::{
        RedisStore, RedisTarget,
        redis::{Client, Cmd, RedisResult, ServerErrorKind, cmd},
    },
    stretto::StrettoStore,
};
use integration_tests::RedisCluster;
use tokio::time::sleep;

const KEYS: usize = 120;
/// The keys whose slots move between primaries, and those whose slots move to a new node.
const MOVED: Range<usize> = 0..24;
const MOVED_TO_NEW_NODE: Range<usize> = 24..36;
const CHAINS: usize = 2;

/// The source of the values. The value of a key is the number of its last write.
struct Origin {
    numbers: [AtomicU64; KEYS],
    is_over: AtomicBool,
}

/// The observations of one task.
#[derive(Default)]
struct Log {
    calls: Vec<Call>,
    values: Vec<Value>,
    writes: Vec<Write>,
}

struct Call {
    name: &'static str,
    key: usize,
    time: Range<Instant>,
    error: Option<ErrorKind>,
}

/// A value that memory or Redis served.
struct Value {
    key: usize,
    /// The write that made it.
    number: u64,
    began: Instant,
    is_from_memory: bool,
}

/// A write that was acknowledged. Numbers of one key are in the order of its writes.
struct Write {
    key: usize,
    number: u64,
    ended: Instant,
}

struct Phase {
    name: &'static str,
    time: Range<Instant>,
}

/// The caller of a write.
enum Writer {
    Chain(ChainCache<u64>),
    /// Another program, which asks this node first.
    Program(String),
}

// The main task blocks its thread when it talks to the nodes. All others run on the two workers.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let seconds = std::env::args().nth(1).map_or(6, |seconds| seconds.parse().expect("a number of seconds"));
    let mut cluster = RedisCluster::start().await;
    let origin = Arc::new(Origin { numbers: [const { AtomicU64::new(0) }; KEYS], is_over: AtomicBool::new(false) });
    let (mut chains, mut tasks) = (Vec::new(), Vec::new());
    for writer in 0..CHAINS {
        let chain = build(&cluster).await;
        tasks.extend((0..4).map(|_| tokio::spawn(read(chain.clone(), Arc::clone(&origin)))));
        tasks.push(tokio::spawn(write(writer, Writer::Chain(chain.clone()), Arc::clone(&origin))));
        chains.push(chain);
    }
    // The last node is a replica, and runs all the time.
    tasks.push(tokio::spawn(write(CHAINS, Writer::Program(cluster.node(5).url()), Arc::clone(&origin))));

    let least = Duration::from_secs(seconds);
    let phases = [
        phase("quiet", least, async {}).await,
        phase("slots move", least, move_slots(&cluster)).await,
        phase("slots move to a new node", least, move_slots_to_new_node(&mut cluster)).await,
        phase("a primary dies", least, kill_primary(&mut cluster)).await,
        phase("manual failover", least, cluster.fail_over(0)).await,
        phase("quiet again", least, async {}).await,
    ];
    origin.is_over.store(true, SeqCst);
    let mut log = Log::default();
    for task in tasks {
        let Log { calls, values, writes } = task.await.expect("a task ends");
        log.calls.extend(calls);
        log.values.extend(values);
        log.writes.extend(writes);
    }
    report_calls(&mut log.calls, &phases);
    let late = report_ages(&log, &phases, chains[0].stats().coherence.window);
    for chain in &chains {
        println!("\n{}", chain.stats());
    }
    assert!(late == 0 && !log.values.is_empty(), "the guarantee was broken");
}

/// Builds a chain, and waits for its stream of changes. Without one, entries are served as long as they live.
async fn build(cluster: &RedisCluster) -> ChainCache<u64> {
    let target = RedisTarget::cluster(cluster.urls());
    let redis = RedisStore::builder(target).namespace("n").connect().await.expect("a cluster");
    let memory = StrettoStore::new(10_000).expect("memory");
    let chain: ChainCache<u64> = ChainCache::builder().tier(memory).tier(redis).build().expect("a chain");
    while !chain.stats().coherence.trusted {
        sleep(Duration::from_millis(10)).await;
    }
    chain
}

/// Runs a phase of at least this time.
async fn phase(name: &'static str, least: Duration, events: impl Future<Output = ()>) -> Phase {
    println!("{name} ...");
    let began = Instant::now();
    events.await;
    sleep(least.saturating_sub(began.elapsed())).await;
    Phase { name, time: began..Instant::now() }
}

async fn move_slots(cluster: &RedisCluster) {
    for key in MOVED {
        let slot = slot_of(cluster, key);
        let owner = cluster.owner_of(slot);
        let other = cluster.primaries().into_iter().find(|primary| *primary != owner).expect("another primary");
        cluster.move_slot(slot, other).await;
    }
}

async fn move_slots_to_new_node(cluster: &mut RedisCluster) {
    let node = cluster.add_node().await;
    for key in MOVED_TO_NEW_NODE {
        cluster.move_slot(slot_of(cluster, key), node).await;
    }
}

fn slot_of(cluster: &RedisCluster, key: usize) -> u16 {
    cluster.slot_of(name_of(key).as_bytes())
}

/// Returns the name of a key in Redis.
fn name_of(key: usize) -> String {
    format!("n:{key}")
}

/// Kills the first node, and starts it again when its replica has been elected.
async fn kill_primary(cluster: &mut RedisCluster) {
    let replica = cluster.replica_of(0);
    let killed = Instant::now();
    cluster.kill(0);
    cluster.wait_until_primary(replica).await;
    println!("    its replica is the primary after {:.1?}", killed.elapsed());
    cluster.restart(0);
    cluster.wait_until_whole().await;
    println!("    and all nodes have their data after {:.1?}", killed.elapsed());
}

/// Reads all keys until it is over.
async fn read(chain: ChainCache<u64>, origin: Arc<Origin>) -> Log {
    let mut log = Log::default();
    while !origin.is_over.load(SeqCst) {
        for _ in 0..4 {
            let (key, began) = (fastrand::usize(..KEYS), Instant::now());
            let (name, found) = if fastrand::bool() {
                ("get", chain.get_detailed(key).await)
            } else {
                let origin = Arc::clone(&origin);
                ("get_or_load", chain.get_or_load_detailed(key, move || origin.load(key)).await)
            };
            log.note(name, key, began, &found);
            if let Ok(Found { value: Some(number), source: Source::Tier(tier), .. }) = found {
                log.values.push(Value { key, number, began, is_from_memory: *tier == *"L1 stretto" });
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    log
}

/// Writes and deletes the keys of this writer until it is over. The origin changes first, as the database of a
/// service does.
async fn write(writer: usize, by: Writer, origin: Arc<Origin>) -> Log {
    let own: Vec<usize> = (0..KEYS).filter(|key| key % (CHAINS + 1) == writer).collect();
    let (mut log, mut number) = (Log::default(), 0);
    while !origin.is_over.load(SeqCst) {
        number += 1;
        let (key, is_set) = (own[fastrand::usize(..own.len())], fastrand::u8(..10) < 7);
        origin.numbers[key].store(number, SeqCst);
        let began = Instant::now();
        let (name, outcome) = match &by {
            Writer::Chain(chain) if is_set => ("set or del", chain.set(key, number).await),
            Writer::Chain(chain) => ("set or del", chain.del(key).await),
            Writer::Program(url) => ("plain command", change_by_command(url, key, is_set, number).await),
        };
        log.note(name, key, began, &outcome);
        if outcome.is_ok() {
            log.writes.push(Write { key, number, ended: Instant::now() });
        }
        sleep(Duration::from_millis(fastrand::u64(1..30))).await;
    }
    log
}

/// Sets a key to bytes that no chain can read, or deletes it, by a plain command.
async fn change_by_command(url: &str, key: usize, is_set: bool, number: u64) -> Result<()> {
    let name = name_of(key);
    let command = if is_set { Cmd::set(name, format!("not of a chain: {number}")) } else { Cmd::del(name) };
    send(url, &command).await.map_err(|error| Error::with_source(ErrorKind::Unavailable, "the command failed", error))
}

/// Sends a command to a node, and follows the redirections, as `redis-cli -c` does.
async fn send(url: &str, command: &Cmd) -> RedisResult<()> {
    let (mut url, mut is_asking) = (url.to_owned(), false);
    loop {
        let mut connection = Client::open(&*url)?.get_multiplexed_async_connection().await?;
        if is_asking {
            cmd("ASKING").exec_async(&mut connection).await?;
        }
        let Err(error) = command.exec_async(&mut connection).await else { return Ok(()) };
        let Some((address, _)) = error.redirect_node() else { return Err(error) };
        url = format!("redis://{address}/");
        is_asking = error.kind() == ServerErrorKind::Ask.into();
    }
}

impl Origin {
    /// Returns the value of a key after a moment.
    async fn load(self: Arc<Self>, key: usize) -> std::io::Result<u64> {
        let number = self.numbers[key].load(SeqCst);
        sleep(Duration::from_millis(2)).await;
        Ok(number)
    }
}

impl Log {
    fn note<T>(&mut self, name: &'static str, key: usize, began: Instant, outcome: &Result<T>) {
        let error = outcome.as_ref().err().map(Error::kind);
        self.calls.push(Call { name, key, time: began..Instant::now(), error });
    }
}

/// Prints the failures and latencies.
fn report_calls(calls: &mut [Call], phases: &[Phase]) {
    calls.sort_by_key(|call| call.time.end);
    let names: BTreeSet<_> = calls.iter().map(|call| call.name).collect();
    println!(
        "\nFailed keys: how many had calls that failed, and the longest time for which all calls of one failed.\n"
    );
    println!("| phase | call | number | failed | failed keys | p50 | p99 | p99.9 | longest |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for phase in phases {
        for name in &names {
            let calls: Vec<_> =
                calls.iter().filter(|call| call.name == *name && phase.time.contains(&call.time.start)).collect();
            let mut errors = BTreeMap::<_, u64>::new();
            for error in calls.iter().filter_map(|call| call.error) {
                *errors.entry(format!("{error:?}")).or_default() += 1;
            }
            let errors: Vec<_> = errors.iter().map(|(error, count)| format!("{count} {error}")).collect();
            let (phase, number, failed, keys) = (phase.name, calls.len(), errors.join(", "), failed_keys(&calls));
            let latencies = quantiles(calls.iter().map(|call| call.time.end - call.time.start).collect());
            println!("| {phase} | {name} | {number} | {failed} | {keys} | {latencies} |");
        }
    }
}

/// Returns how many keys had calls that failed, and the longest time for which all calls of one of them failed.
fn failed_keys(calls: &[&Call]) -> String {
    let (mut keys, mut failing) = (HashSet::new(), HashMap::new());
    let mut longest = Duration::ZERO;
    for call in calls {
        if call.error.is_some() {
            keys.insert(call.key);
            let began = *failing.entry(call.key).or_insert(call.time.start);
            longest = longest.max(call.time.end - began);
        } else {
            failing.remove(&call.key);
        }
    }
    if keys.is_empty() { String::new() } else { format!("{}, {longest:.1?}", keys.len()) }
}

/// Prints how old the values were. Returns how many were older than W.
fn report_ages(log: &Log, phases: &[Phase], window: Duration) -> usize {
    let mut writes = HashMap::<usize, Vec<&Write>>::new();
    for write in &log.writes {
        writes.entry(write.key).or_default().push(write);
    }
    // The value was replaced at the latest when the next write that was acknowledged had ended.
    let age = |value: &&Value| {
        let writes = writes.get(&value.key).map_or(&[][..], Vec::as_slice);
        let next = writes.get(writes.partition_point(|write| write.number <= value.number));
        next.map_or(Duration::ZERO, |next| value.began.saturating_duration_since(next.ended))
    };
    println!("\nAge of a value: the time from the end of the write that replaced it to the beginning of the read.");
    println!("A write that failed does not count, because its outcome is unknown. One that was acknowledged counts,");
    println!("also if a failover has lost it. W is {window:?}.\n");
    println!("| phase | values | from memory | replaced before | p50 | p99 | p99.9 | oldest | older than W |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut late_of_all = 0;
    for phase in phases {
        let values: Vec<_> = log.values.iter().filter(|value| phase.time.contains(&value.began)).collect();
        let from_memory = 100 * values.iter().filter(|value| value.is_from_memory).count() / values.len().max(1);
        let ages: Vec<_> = values.iter().map(age).collect();
        let replaced = ages.iter().filter(|age| !age.is_zero()).count();
        let late = ages.iter().filter(|age| **age > window).count();
        late_of_all += late;
        let (phase, number, ages) = (phase.name, ages.len(), quantiles(ages));
        println!("| {phase} | {number} | {from_memory} % | {replaced} | {ages} | {late} |");
    }
    late_of_all
}

/// Returns the median, the 99th and 99.9th percentiles and the maximum, as cells of a table.
fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let cell = |part: usize| match times.get(times.len().saturating_sub(1) * part / 1000) {
        Some(time) if !time.is_zero() => format!("{time:.1?}"),
        _ => "0".to_owned(),
    };
    [500, 990, 999, 1000].map(cell).join(" | ")
}
