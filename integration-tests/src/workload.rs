//! A mixed load on a chain that knows what it may be served.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use cache_chain::ChainCache;
use cache_core::testkit::Schedules;

/// Reads, loads, sets and deletes a few keys from several tasks. The value of a key is the number
/// of the write that made it, so that whatever is read can be dated.
///
/// The writers of one key take turns, as those of one row in a database do. A write that succeeded
/// may not be undone, at any time; one that failed may still take effect, so it is held against the
/// chain only once all is at rest.
pub struct Workload {
    chain: ChainCache<u64>,
    keys: Vec<State>,
    stop: AtomicBool,
    seen: Mutex<Report>,
}

#[derive(Default)]
struct State {
    /// The number of the last write that was begun.
    writing: tokio::sync::Mutex<u64>,
    /// That of the last that succeeded.
    succeeded: AtomicU64,
    /// What a loader finds: a number, or 0 for nothing.
    origin: AtomicU64,
}

/// What was seen since the last report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How long each call took.
    pub latencies: Vec<Duration>,
    /// How many calls failed.
    pub failed: usize,
    /// What was served that had been replaced or deleted.
    pub outdated: Vec<String>,
}

impl Workload {
    /// A load on so many keys of this chain.
    pub fn new(chain: ChainCache<u64>, keys: usize) -> Arc<Self> {
        let keys = (0..keys).map(|_| State::default()).collect();
        Arc::new(Self { chain, keys, stop: AtomicBool::new(false), seen: Mutex::default() })
    }

    /// Runs so many tasks, each of a call a millisecond at most, until [`end`](Self::end).
    pub fn run(self: &Arc<Self>, tasks: u64) -> Vec<tokio::task::JoinHandle<()>> {
        (0..tasks).map(|task| tokio::spawn(Arc::clone(self).work(task))).collect()
    }

    /// Lets the tasks end.
    pub fn end(&self) {
        self.stop.store(true, SeqCst);
    }

    /// What was seen since the last time this was called.
    pub fn report(&self) -> Report {
        std::mem::take(&mut *self.seen())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Report> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self: Arc<Self>, task: u64) {
        let mut random = Schedules::random(task, 1);
        random.next();
        while !self.stop.load(SeqCst) {
            let key = random.choose(self.keys.len());
            match random.choose(10) {
                0 => self.write(key, true).await,
                1 => self.write(key, false).await,
                2..5 => self.load(key).await,
                _ => self.read(key).await,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn timed<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Option<T> {
        let started = Instant::now();
        let outcome = call.await;
        let took = started.elapsed();
        let mut seen = self.seen();
        seen.latencies.push(took);
        seen.failed += usize::from(outcome.is_err());
        outcome.ok()
    }

    async fn read(&self, key: usize) {
        let least = self.keys[key].succeeded.load(SeqCst);
        let found = self.timed(self.chain.get(key)).await;
        self.check("get", key, least, found.flatten());
    }

    async fn load(self: &Arc<Self>, key: usize) {
        let least = self.keys[key].succeeded.load(SeqCst);
        let this = Arc::clone(self);
        let load = move || async move {
            let origin = this.keys[key].origin.load(SeqCst);
            Ok::<_, std::io::Error>((origin > 0).then_some(origin))
        };
        let found = self.timed(self.chain.get_or_load(key, load)).await;
        self.check("get_or_load", key, least, found.flatten());
    }

    fn check(&self, how: &str, key: usize, least: u64, found: Option<u64>) {
        if let Some(value) = found.filter(|value| *value < least) {
            self.seen().outdated.push(format!("{how} of {key} gave {value} after {least}"));
        }
    }

    async fn write(&self, key: usize, set: bool) {
        let state = &self.keys[key];
        let mut writing = state.writing.lock().await;
        *writing += 1;
        let number = *writing;
        state.origin.store(if set { number } else { 0 }, SeqCst);
        let written =
            if set { self.timed(self.chain.set(key, number)).await } else { self.timed(self.chain.del(key)).await };
        if written.is_some() {
            state.succeeded.store(number, SeqCst);
        }
    }

    /// Reads every key when all is at rest: then no write that was ever begun may be undone.
    ///
    /// # Panics
    ///
    /// If it does not come to rest.
    pub async fn check_at_rest(&self) -> Vec<String> {
        self.chain.wait().await.expect("at rest");
        self.report();
        for (key, state) in self.keys.iter().enumerate() {
            let begun = *state.writing.lock().await;
            let found = self.chain.get(key).await.expect("a read after the recovery");
            self.check("get at rest", key, begun, found);
        }
        self.report().outdated
    }
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workload").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Report {
    /// The latency that this part (0 to 1) of the calls did not exceed.
    pub fn quantile(&self, part: f64) -> Duration {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
        let at = (part * latencies.len().saturating_sub(1) as f64).round() as usize;
        latencies.get(at).copied().unwrap_or_default()
    }

    /// How many calls took longer than this.
    pub fn beyond(&self, limit: Duration) -> usize {
        self.latencies.iter().filter(|latency| **latency > limit).count()
    }
}
