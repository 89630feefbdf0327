//! A mixed load on a chain that knows what it may be served.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use cache_chain::{CallOptions, ChainCache};
use cache_core::testkit::Schedules;

/// Reads, loads, sets, touches, takes and deletes a few keys from several tasks. The value of a key
/// is the number of the write that made it, so that whatever is read can be dated.
///
/// The writers of one key take turns, as those of one row in a database do. A write that succeeded
/// may not be undone, at any time; one that failed may still take effect, so it is held against the
/// chain only once all is at rest.
pub struct Workload {
    chains: Vec<ChainCache<u64>>,
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    Set,
    Del,
    Take,
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
    /// Creates a load on so many keys of this chain.
    pub fn new(chain: ChainCache<u64>, keys: usize) -> Arc<Self> {
        Self::of_chains(vec![chain], keys)
    }

    /// Creates a load on so many keys that these chains share, as several processes do. Each call is
    /// made to one of them. They must have no tier of their own, which would not be coherent.
    ///
    /// Reads of several chains do not join what another caller has begun, because that may have read
    /// an older value before a write to another chain.
    pub fn of_chains(chains: Vec<ChainCache<u64>>, keys: usize) -> Arc<Self> {
        let keys = (0..keys).map(|_| State::default()).collect();
        Arc::new(Self { chains, keys, stop: AtomicBool::new(false), seen: Mutex::default() })
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
            let chain = &self.chains[random.choose(self.chains.len())];
            match random.choose(20) {
                0..2 => self.write(chain, key, Write::Set).await,
                2 => self.write(chain, key, Write::Del).await,
                3 => self.write(chain, key, Write::Take).await,
                4 => drop(self.timed(chain.touch(key, Duration::from_secs(3600))).await),
                5..9 => self.load(chain, key, self.chains.len() > 1).await,
                9 => self.load(chain, key, true).await,
                _ => self.read(chain, key).await,
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

    async fn read(&self, chain: &ChainCache<u64>, key: usize) {
        let least = self.keys[key].succeeded.load(SeqCst);
        let found = if self.chains.len() == 1 {
            self.timed(chain.get(key)).await
        } else {
            // A call with such an option joins no other.
            let any_age = CallOptions::new().max_age(Duration::MAX);
            self.timed(chain.with(&any_age).get(key)).await
        };
        self.check("get", key, least, found.flatten());
    }

    async fn load(self: &Arc<Self>, chain: &ChainCache<u64>, key: usize, reloads: bool) {
        let least = self.keys[key].succeeded.load(SeqCst);
        let this = Arc::clone(self);
        let load = move || async move {
            let origin = this.keys[key].origin.load(SeqCst);
            Ok::<_, std::io::Error>((origin > 0).then_some(origin))
        };
        let found = if reloads {
            self.timed(chain.with(&CallOptions::new().reload()).get_or_load(key, load)).await
        } else {
            self.timed(chain.get_or_load(key, load)).await
        };
        self.check("get_or_load", key, least, found.flatten());
    }

    fn check(&self, how: &str, key: usize, least: u64, found: Option<u64>) {
        if let Some(value) = found.filter(|value| *value < least) {
            self.seen().outdated.push(format!("{how} of {key} gave {value} after {least}"));
        }
    }

    async fn write(&self, chain: &ChainCache<u64>, key: usize, write: Write) {
        let state = &self.keys[key];
        let mut writing = state.writing.lock().await;
        *writing += 1;
        let number = *writing;
        state.origin.store(if write == Write::Set { number } else { 0 }, SeqCst);
        let written = match write {
            Write::Set => self.timed(chain.set(key, number)).await,
            Write::Del => self.timed(chain.del(key)).await,
            Write::Take => self.timed(chain.take(key)).await.map(drop),
        };
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
        for chain in &self.chains {
            chain.wait().await.expect("at rest");
        }
        self.report();
        for (key, state) in self.keys.iter().enumerate() {
            let begun = *state.writing.lock().await;
            for chain in &self.chains {
                let found = chain.get(key).await.expect("a read after the recovery");
                self.check("get at rest", key, begun, found);
            }
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
