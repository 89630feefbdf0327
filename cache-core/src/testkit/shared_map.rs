//! A shared store for tests, with a stream of its changes.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::{MapStore, yield_now};
use crate::{
    Entry, Error, ErrorKind, Invalidation, InvalidationSink, InvalidationStream, Key, Profile, Result, Revalidated,
    SharedClock, Store, SystemClock, Ticket, Write, backend::ETag,
};

/// A map that several chains share, as the processes of a service share a server. It announces its
/// changes; see [`InvalidationStream`].
///
/// It is for tests of coherence without a server. The stream proves that it is alive with each
/// change and by [`prove`](Self::prove), and not by heartbeats.
#[derive(Clone, Debug)]
pub struct SharedMap<V> {
    map: MapStore<V>,
    announcements: Arc<Announcements>,
    mistake: Option<StreamMistake>,
}

#[derive(Default)]
struct Announcements {
    sinks: Mutex<Vec<(u64, Arc<dyn InvalidationSink>)>>,
    wakers: Mutex<Vec<Waker>>,
    /// For [`StreamMistake::N2`].
    late: Mutex<Vec<Vec<u8>>>,
    /// The number of the last run, and the runs up to which all have ended.
    runs: AtomicU64,
    ended: AtomicU64,
    changes: AtomicU64,
}

/// A breach of the contract of [`InvalidationStream`], to prove the tests of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[doc(hidden)]
pub enum StreamMistake {
    /// The stream begins before the backend announces changes.
    N1,
    /// The stream proves more than it has announced.
    N2,
    /// A deletion is not announced.
    N3,
    /// The stream goes on after it was broken.
    N4,
    /// The stream announces proofs after it has ended.
    N5,
}

impl Announcements {
    fn sinks(&self) -> MutexGuard<'_, Vec<(u64, Arc<dyn InvalidationSink>)>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, notice: Invalidation<'_>) {
        let sinks: Vec<_> = self.sinks().iter().map(|(_, sink)| Arc::clone(sink)).collect();
        for sink in sinks {
            sink.apply(notice);
        }
    }

    fn prove(&self) {
        self.apply(Invalidation::Proven(Instant::now()));
    }

    /// Waits until the streams are cut that run now.
    async fn wait_for_cut(&self, run: u64) {
        poll_fn(|context| {
            self.wakers().push(context.waker().clone());
            if run <= self.ended.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl fmt::Debug for Announcements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcements").finish_non_exhaustive()
    }
}

impl<V: Clone + Send + Sync + 'static> SharedMap<V> {
    /// Creates an empty map on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock::shared())
    }

    /// Creates an empty map on this clock.
    pub fn with_clock(clock: SharedClock) -> Self {
        Self { map: MapStore::with_clock(clock), announcements: Arc::default(), mistake: None }
    }

    /// Makes a mistake in each of its streams.
    #[doc(hidden)]
    pub fn with_mistake(mistake: StreamMistake) -> Self {
        Self { mistake: Some(mistake), ..Self::new() }
    }

    /// Ends the streams that run now, as if their connections were cut.
    pub fn cut_streams(&self) {
        self.announcements.ended.store(self.announcements.runs.load(Ordering::SeqCst), Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.announcements.wakers());
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lets the streams that run now prove that they are alive.
    pub fn prove(&self) {
        self.announcements.prove();
        let late = std::mem::take(&mut *self.announcements.late());
        for key in late {
            self.announcements.apply(Invalidation::Key(&key));
        }
    }

    fn announce(&self, notice: Invalidation<'_>) {
        self.announcements.changes.fetch_add(1, Ordering::SeqCst);
        match notice {
            Invalidation::Key(key) if self.mistake == Some(StreamMistake::N2) => {
                self.announcements.late().push(key.to_vec());
            }
            notice => self.announcements.apply(notice),
        }
        self.announcements.prove();
    }

    fn announce_key(&self, key: &Key) {
        self.announce(Invalidation::Key(key.as_bytes()));
    }
}

impl<V: Clone + Send + Sync + 'static> Default for SharedMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Clone + Send + Sync + 'static> Store for SharedMap<V> {
    type Value = V;

    fn profile(&self) -> Profile {
        Store::profile(&self.map)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<V>>> {
        Store::get(&self.map, key).await
    }

    async fn revalidate_many(&self, keys: &[(Key, Option<ETag>)]) -> Vec<Result<Revalidated<V>>> {
        let mut answers = Vec::with_capacity(keys.len());
        for (key, etag) in keys {
            let answer = self.get(key).await.map(|entry| match entry {
                Some(entry) if etag.is_some() && entry.etag() == *etag => Revalidated::NotModified,
                entry => Revalidated::Modified(entry),
            });
            answers.push(answer);
        }
        answers
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        self.map.lease(key).await
    }

    async fn fill(&self, write: Write<V>) -> Result<bool> {
        let key = write.key.clone();
        let filled = self.map.fill(self.versioned(write)).await;
        self.announce_key(&key);
        filled
    }

    async fn set(&self, write: Write<V>) -> Result<()> {
        let key = write.key.clone();
        let set = self.map.set(self.versioned(write)).await;
        self.announce_key(&key);
        set
    }

    async fn del(&self, key: &Key) -> Result<()> {
        let deleted = self.map.del(key).await;
        if self.mistake != Some(StreamMistake::N3) {
            self.announce_key(key);
        }
        deleted
    }

    async fn clear(&self) -> Result<()> {
        let cleared = Store::clear(&self.map).await;
        self.announce(Invalidation::Everything);
        cleared
    }

    async fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn invalidations(&self) -> Option<Arc<dyn InvalidationStream>> {
        Some(Arc::new(MapStream { announcements: Arc::clone(&self.announcements), mistake: self.mistake }))
    }
}

impl<V: Clone + Send + Sync + 'static> SharedMap<V> {
    /// Gives each write a version of its own.
    fn versioned(&self, write: Write<V>) -> Write<V> {
        let number = self.announcements.changes.load(Ordering::SeqCst).to_le_bytes();
        let etag = ETag::new(&[write.key.as_bytes(), &number].concat(), false);
        Write { entry: write.entry.with_etag(Some(etag)), ..write }
    }
}

#[derive(Debug)]
struct MapStream {
    announcements: Arc<Announcements>,
    mistake: Option<StreamMistake>,
}

/// Ends the announcements to a run that has ended or was dropped.
struct Registered {
    announcements: Arc<Announcements>,
    run: u64,
    keeps_on: bool,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.keeps_on {
            return;
        }
        let removed: Vec<_> = {
            let mut sinks = self.announcements.sinks();
            sinks.extract_if(.., |(run, _)| *run == self.run).collect()
        };
        drop(removed);
    }
}

impl InvalidationStream for MapStream {
    fn timeout(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn run(
        self: Arc<Self>,
        _heartbeat: Duration,
        sink: Arc<dyn InvalidationSink>,
    ) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        Box::pin(async move {
            let run = self.announcements.runs.fetch_add(1, Ordering::SeqCst) + 1;
            let announcements = Arc::clone(&self.announcements);
            let _registered = Registered { announcements, run, keeps_on: self.mistake == Some(StreamMistake::N5) };
            let begins_early = self.mistake == Some(StreamMistake::N1);
            if begins_early {
                sink.apply(Invalidation::Begin("map"));
                yield_now().await;
            }
            self.announcements.sinks().push((run, Arc::clone(&sink)));
            if !begins_early {
                sink.apply(Invalidation::Begin("map"));
            }
            sink.apply(Invalidation::Proven(Instant::now()));
            self.announcements.wait_for_cut(run).await;
            if self.mistake == Some(StreamMistake::N4) {
                std::future::pending::<()>().await;
            }
            Error::new(ErrorKind::Unavailable, "the stream was cut")
        })
    }
}
