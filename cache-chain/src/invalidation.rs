//! Runs the invalidation streams of a chain, and applies their notices.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_core::{Error, ErrorKind, Invalidation, InvalidationSink, InvalidationStream, Key};
use tokio::task::AbortHandle;

use crate::{
    coherence::FirstTiers,
    repair::Repairer,
    tier::Tier,
    util::{panics::caught, runtime::RuntimeHandle},
};

/// The tasks that run the streams. They end with the chain.
#[derive(Default)]
pub(crate) struct Supervisor(Vec<AbortHandle>);

/// The pause before a stream that has ended is run again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

impl Supervisor {
    /// Runs the streams, each with the place of its tier.
    pub(crate) fn start<V: Clone + Send + Sync + 'static>(
        streams: Vec<(usize, Arc<dyn InvalidationStream>)>,
        (tiers, first): (&Arc<[Tier<V>]>, Option<&Arc<FirstTiers>>),
        repairer: &Arc<Repairer<V>>,
        heartbeat: Duration,
        runtime: &RuntimeHandle,
    ) -> Self {
        let spawn = |(place, stream)| {
            let run = Run {
                stream,
                tiers: Arc::clone(tiers),
                place,
                first: first.cloned(),
                repairer: Arc::downgrade(repairer),
                heartbeat,
            };
            runtime.spawn(run.keep_running()).abort_handle()
        };
        Self(streams.into_iter().map(spawn).collect())
    }

    /// Runs another task until the chain ends.
    pub(crate) fn supervise(&mut self, runtime: &RuntimeHandle, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(runtime.spawn(task).abort_handle());
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

struct Run<V> {
    stream: Arc<dyn InvalidationStream>,
    tiers: Arc<[Tier<V>]>,
    place: usize,
    first: Option<Arc<FirstTiers>>,
    repairer: Weak<Repairer<V>>,
    heartbeat: Duration,
}

impl<V: Clone + Send + Sync + 'static> Run<V> {
    async fn keep_running(self) {
        let mut pause = PAUSES.0;
        let mut is_reported = false;
        loop {
            let applier = Arc::new(Applier {
                tiers: Arc::clone(&self.tiers),
                place: self.place,
                first: self.first.clone(),
                repairer: Weak::clone(&self.repairer),
                is_running: AtomicBool::new(true),
                has_begun: AtomicBool::new(false),
                has_proven: AtomicBool::new(false),
            });
            let sink: Arc<dyn InvalidationSink> = Arc::clone(&applier) as _;
            let stream = Arc::clone(&self.stream);
            // Also if the runtime ends, or the chain.
            let end = EndOnDrop(&applier);
            let run = async { stream.run(self.heartbeat, sink).await };
            let ended = caught(run).await;
            drop(end);
            let [has_begun, has_proven] =
                [&applier.has_begun, &applier.has_proven].map(|has| has.load(Ordering::SeqCst));
            let error = ended.unwrap_or_else(|| Error::new(ErrorKind::Panicked, "the invalidation stream panicked"));
            // Once until the next success: a server that is down would fill the log.
            if has_begun || !is_reported {
                let tier = self.tiers[self.place].title();
                tracing::warn!(
                    %tier, %error,
                    "the invalidation stream has ended; entries in memory that it has kept coherent are checked until it is back"
                );
            }
            is_reported = true;
            pause = if has_proven { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            // Not all instances come back at the same moment.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        }
    }
}

/// Ends the run of a stream when dropped.
struct EndOnDrop<'a, V: Clone + Send + Sync + 'static>(&'a Applier<V>);

impl<V: Clone + Send + Sync + 'static> Drop for EndOnDrop<'_, V> {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::SeqCst);
        if let Some(first) = self.0.first() {
            first.end();
        }
    }
}

/// Applies the notices of one run of a stream.
struct Applier<V> {
    tiers: Arc<[Tier<V>]>,
    place: usize,
    first: Option<Arc<FirstTiers>>,
    repairer: Weak<Repairer<V>>,
    /// `false` when the run has ended.
    is_running: AtomicBool,
    has_begun: AtomicBool,
    has_proven: AtomicBool,
}

impl<V: Clone + Send + Sync + 'static> InvalidationSink for Applier<V> {
    fn apply(&self, notice: Invalidation<'_>) {
        if !self.is_running.load(Ordering::SeqCst) && !matches!(notice, Invalidation::Key(_) | Invalidation::Everything)
        {
            return;
        }
        match notice {
            Invalidation::Key(bytes) => match Key::new(bytes) {
                Ok(key) => self.change(&key),
                Err(_) => self.count_unknown(),
            },
            Invalidation::Everything => self.change_all(),
            Invalidation::Begin(mode) => {
                self.has_begun.store(true, Ordering::SeqCst);
                if let Some(first) = self.first() {
                    first.begin(mode);
                }
            }
            Invalidation::Gap => {
                if let Some(first) = self.first() {
                    first.gap();
                    self.tiers[self.place].report_gap();
                }
            }
            Invalidation::Proven(moment) => {
                self.has_proven.store(true, Ordering::SeqCst);
                if let Some(first) = self.first() {
                    first.prove(moment);
                }
            }
            _ => self.count_unknown(),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Applier<V> {
    /// Returns the first tiers if this is the stream that they follow.
    fn first(&self) -> Option<&FirstTiers> {
        self.first.as_deref().filter(|first| first.shared == self.place)
    }

    fn count_unknown(&self) {
        if let Some(first) = &self.first {
            first.counters.unknown.increment();
        }
    }

    fn change(&self, key: &Key) {
        let (stamped, others) = self.tiers_above();
        if let Some(first) = &self.first {
            first.change(key, || is_held(stamped, key));
        }
        for tier in others {
            tier.invalidate(key);
        }
        self.repair(others);
    }

    fn change_all(&self) {
        if let Some(first) = &self.first {
            first.change_all();
        }
        let (_, others) = self.tiers_above();
        others.iter().for_each(Tier::invalidate_all);
        self.repair(others);
    }

    /// Returns the tiers above that of the stream: those whose entries have stamps, and those whose
    /// entries have none.
    fn tiers_above(&self) -> (&[Tier<V>], &[Tier<V>]) {
        self.tiers[..self.place].split_at(self.first.as_ref().map_or(0, |first| first.shared))
    }

    fn repair(&self, tiers: &[Tier<V>]) {
        if tiers.iter().any(Tier::needs_repair)
            && let Some(repairer) = self.repairer.upgrade()
        {
            repairer.start();
        }
    }
}

/// Returns `true` if any of these tiers may hold an entry of the key. A store that panics may.
fn is_held<V: Clone + Send + Sync + 'static>(tiers: &[Tier<V>], key: &Key) -> bool {
    let holds = || tiers.iter().filter_map(Tier::local).any(|store| store.holds(key));
    catch_unwind(AssertUnwindSafe(holds)).unwrap_or(true)
}
