//! Coherence: the first tiers follow the changes that other processes make to the shared tier.
//!
//! The first tiers are those in this process that lie above the first tier that is not. If that
//! *shared tier* has an invalidation stream, an entry of a first tier is served only if it was
//! current in the shared tier at most [`Coherence::window`] ago. Otherwise it is suspect, and the
//! shared tier is asked.

#[cfg(all(test, not(shuttle)))]
mod model;
#[cfg(all(test, shuttle))]
mod races;
mod stamps;
mod sync;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use cache_core::{
    Entry, Error, ErrorKind, InvalidationStream, Key, Result,
    backend::{ETag, coarse_clock},
};
use tokio::sync::mpsc;

use self::stamps::{Draws, Stamp, Stamps, Suspicion};
use crate::stats::{CoherenceCounters, CoherenceStats};

/// Settings of the coherence of the first tiers; see
/// [`ChainBuilder::coherence`](crate::ChainBuilder::coherence).
#[derive(Clone, Debug)]
pub struct Coherence {
    pub(crate) heartbeat: Duration,
    pub(crate) grace: Option<Duration>,
    pub(crate) audit: Option<u32>,
}

impl Coherence {
    /// Creates the default settings: a heartbeat each 500 ms, no grace.
    pub fn new() -> Self {
        Self { heartbeat: Duration::from_millis(500), grace: None, audit: None }
    }

    /// Sets the interval of the heartbeats by which the stream proves that it is alive. An entry
    /// of a first tier is served if it was current in the shared tier at most W ago, where W is
    /// twice this interval plus the timeout of one command of the stream. Default: 500 ms.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// Sets for how long entries are served that the shared tier cannot confirm because it cannot
    /// be reached, counted from when they were last proven. Entries whose keys are known to have
    /// changed are not served, and stale entries only by calls that get stale values otherwise.
    /// Default: none are.
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = Some(time);
        self
    }

    /// Audits one in so many hits of the first tiers: reads the entry from the shared tier W later.
    /// An entry that a first tier serves although the shared tier replaced it longer ago than W
    /// counts in [`CoherenceStats::disagreed`](crate::CoherenceStats::disagreed) and is logged.
    /// Entries without a version in the shared tier cannot be compared. At most some hundred hits
    /// per second are audited. Default: none.
    pub fn audit(mut self, one_in: u32) -> Self {
        self.audit = Some(one_in);
        self
    }

    pub(crate) fn checked(self) -> Result<Self> {
        if self.audit == Some(0) {
            let message = "the coherence audits one in 0 hits; leave `audit` out for no audit";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if self.heartbeat < SHORTEST_HEARTBEAT || self.heartbeat > LONGEST_HEARTBEAT {
            let message = format!(
                "the heartbeat of the coherence is {:?}; choose a time from {SHORTEST_HEARTBEAT:?} to {LONGEST_HEARTBEAT:?}",
                self.heartbeat
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(self)
    }
}

impl Default for Coherence {
    fn default() -> Self {
        Self::new()
    }
}

const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(3600);

/// The number of entries for which the table is sized if no first tier tells how many it holds.
const ENTRIES: u64 = 65_536;

/// The slots of stamps whose entries may still be stored. Keys that share one cost needless checks.
const PENDING_SLOTS: usize = 1 << 16;

/// The stamps of this process.
static DRAWS: OnceLock<Arc<Draws>> = OnceLock::new();

/// The first tiers of a chain, which follow the stream of the shared tier below them.
pub(crate) struct FirstTiers {
    stamps: Stamps,
    /// The place of the shared tier, which is the number of the first tiers.
    pub(crate) shared: usize,
    /// W.
    window: Duration,
    grace: Option<Duration>,
    audit: Option<Audit>,
    pub(crate) counters: CoherenceCounters,
}

/// The sampling of hits.
struct Audit {
    one_in: u32,
    samples: mpsc::Sender<Sample>,
}

/// A hit to be audited.
pub(crate) struct Sample {
    pub(crate) key: Key,
    pub(crate) etag: ETag,
    pub(crate) seen: tokio::time::Instant,
}

/// The most samples that wait for their audit. Further hits are not sampled.
const SAMPLES: usize = 1024;

/// A stamp for the entries of one key that may be stored in the first tiers. While it exists, no
/// notice for the key is skipped.
#[derive(Clone)]
pub(crate) struct Draw {
    stamp: Stamp,
    shared: usize,
}

impl Draw {
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp.number()
    }

    /// Returns `true` if the stamp is valid for an entry that was found in this place, and that will
    /// be stored in these.
    ///
    /// If the shared tier neither has the entry nor a marker in its place, it does not announce that
    /// somebody deletes the key.
    pub(crate) fn covers(&self, found_in: usize, stored_in: impl IntoIterator<Item = usize>) -> bool {
        found_in == self.shared || (found_in > self.shared && stored_in.into_iter().any(|place| place == self.shared))
    }
}

impl FirstTiers {
    /// Creates the state for first tiers of so many `entries` above the `shared` tier.
    pub(crate) fn new(
        settings: &Coherence,
        stream: &dyn InvalidationStream,
        shared: usize,
        entries: Option<u64>,
    ) -> (Arc<Self>, Option<mpsc::Receiver<Sample>>) {
        let window = (2 * settings.heartbeat).saturating_add(stream.timeout());
        let draws = Arc::clone(DRAWS.get_or_init(|| Draws::new(PENDING_SLOTS)));
        let stamps = Stamps::new(draws, entries.unwrap_or(ENTRIES), window, coarse_clock::resolution());
        let (audit, samples) = settings
            .audit
            .map(|one_in| {
                let (samples, receiver) = mpsc::channel(SAMPLES);
                (Audit { one_in, samples }, receiver)
            })
            .unzip();
        let counters = CoherenceCounters::default();
        (Arc::new(Self { stamps, shared, window, grace: settings.grace, audit, counters }), samples)
    }

    /// W.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }

    /// Lets the hit be audited, if it is one of the sample.
    #[inline]
    pub(crate) fn sample<V>(&self, key: &Key, entry: &Entry<V>) {
        if let Some(audit) = &self.audit
            && self.stamps.is_trusted()
            && fastrand::u32(..audit.one_in) == 0
            && let Some(etag) = entry.etag()
        {
            let sample = Sample { key: key.clone(), etag, seen: tokio::time::Instant::now() };
            // If the auditor is behind, the hit is not sampled.
            let _ = audit.samples.try_send(sample);
        }
    }

    /// Returns `true` if the entry of the key is current in the sense of the guarantee.
    #[inline]
    pub(crate) fn is_current<V>(&self, key: &Key, entry: &Entry<V>) -> bool {
        self.stamps.is_current(key, entry.stamp(), coarse_clock::now)
    }

    /// Returns `true` if an entry of this stamp is not suspect, unless its key has changed.
    pub(crate) fn is_proven(&self, stamp: u64) -> bool {
        self.stamps.is_proven(stamp, coarse_clock::now)
    }

    /// Returns the moment of the last proof: entries that are current after this call were current
    /// then or later.
    pub(crate) fn proven(&self) -> Option<Instant> {
        self.stamps.state(coarse_clock::now()).proven
    }

    /// Draws a stamp for an entry of the key; see [`Stamps::draw`].
    pub(crate) fn draw(&self, key: &Key) -> Draw {
        Draw { stamp: self.stamps.draw(key), shared: self.shared }
    }

    /// Notes what the shared tier has answered for a suspect entry of the key. An entry that is
    /// outdated is not served any more, not even if the shared tier cannot be reached. `newer` is
    /// the draw for the entry that replaces it.
    pub(crate) fn note_check<V>(
        &self,
        (key, suspect): (&Key, &Entry<V>),
        found: Option<&Entry<V>>,
        newer: Option<&Draw>,
    ) {
        let count = match found {
            Some(found) if found.etag().is_some() && found.etag() == suspect.etag() => {
                self.counters.checks_unchanged.increment();
                return;
            }
            Some(_) => &self.counters.checks_changed,
            None => &self.counters.checks_gone,
        };
        count.increment();
        self.stamps.outdate(key, suspect.stamp(), newer.map(Draw::stamp));
    }

    /// Makes the entries of a key suspect.
    pub(crate) fn change(&self, key: &Key, is_held: impl FnOnce() -> bool) {
        let count = if self.stamps.change(key, is_held) { &self.counters.events } else { &self.counters.events_unheld };
        count.increment();
    }

    /// Returns `true` if the suspect entry may be served although the shared tier cannot be
    /// reached.
    pub(crate) fn is_in_grace<V>(&self, key: &Key, entry: &Entry<V>) -> bool {
        let Some(grace) = self.grace else { return false };
        match self.stamps.suspicion(key, entry.stamp(), coarse_clock::now) {
            None => true,
            Some(Suspicion::Changed | Suspicion::Unproven(None)) => false,
            Some(Suspicion::Unproven(Some(since))) => {
                Duration::from_nanos(coarse_clock::now().saturating_sub(since)) <= grace
            }
        }
    }

    pub(crate) fn stats(&self) -> CoherenceStats {
        let state = self.stamps.state(coarse_clock::now());
        let heartbeat_age = state.proven.map(|proven| proven.elapsed());
        self.counters.snapshot(state.mode, state.epoch, heartbeat_age, state.trusted, self.window)
    }

    /// Makes all entries suspect: any of their keys may have changed.
    pub(crate) fn change_all(&self) {
        self.counters.events.increment();
        self.stamps.change_all();
    }

    /// The stream has begun: changes are announced from now on.
    pub(crate) fn begin(&self, mode: &'static str) {
        self.stamps.begin(mode);
    }

    /// The stream may have lost events.
    pub(crate) fn gap(&self) {
        self.counters.gaps.increment();
        self.stamps.gap();
    }

    /// The stream has ended. Entries are trusted until their last proof is too old.
    pub(crate) fn end(&self) {
        self.counters.ended.increment();
        self.stamps.end();
    }

    /// All changes before this moment have been announced.
    pub(crate) fn prove(&self, moment: Instant) {
        // In this order: suspended in between, the thread dates the proof too early and not too late.
        let now = coarse_clock::now();
        let ago = u64::try_from(moment.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.stamps.prove(moment, now.saturating_sub(ago));
    }
}
