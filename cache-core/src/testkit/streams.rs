//! The contract suite of [`InvalidationStream`](crate::InvalidationStream).

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use super::yield_now;
use crate::{
    Clock as _, Entry, Expiry, Invalidation, InvalidationSink, Key, Lifetime, Result, Store, SystemClock, Ticket, Write,
};

/// The parts of a test of an [`InvalidationStream`](crate::InvalidationStream) that depend on the backend.
pub trait StreamHarness: Send + Sync {
    /// The backend.
    type Store: Store<Value = String>;

    /// An empty store that has a stream.
    fn store(&self) -> impl Future<Output = Self::Store> + Send;

    /// Cuts the connection of the stream that runs. For clause N4.
    fn cut(&self) -> impl Future<Output = ()> + Send;

    /// Called again and again while the test waits, for a stream without heartbeats.
    fn prompt(&self) {}
}

/// Tests the stream of a store for each clause of the contract of
/// [`InvalidationStream`](crate::InvalidationStream). Returns the names of those that it breaks, with what was seen. Run it on the runtime that the backend
/// needs.
///
/// # Panics
///
/// Panics if the store has no stream.
pub async fn broken_stream_clauses(harness: &impl StreamHarness) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    let n1 = begins_when_changes_are_announced(harness).await;
    let n2 = proves_what_was_announced(harness).await;
    let n3 = announces_every_change(harness).await;
    let n4 = ends_when_it_is_cut(harness).await;
    let n5 = is_silent_after_its_end(harness).await;
    for (name, result) in [("N1", n1), ("N2", n2), ("N3", n3), ("N4", n4), ("N5", n5)] {
        broken.extend(result.err().map(|seen| (name, seen)));
    }
    broken
}

type Checked = std::result::Result<(), String>;

/// The longest time that a notice may take.
const PATIENCE: Duration = Duration::from_secs(20);

const HEARTBEAT: Duration = Duration::from_millis(20);

/// A notice, kept.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Kept {
    Begin,
    Key(Vec<u8>),
    Everything,
    Gap,
    Proven(Instant),
    Other,
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Kept>>);

impl Recorder {
    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a notice at or after `from`, and returns its position.
    async fn wait_for(
        &self,
        harness: &impl StreamHarness,
        from: usize,
        is_wanted: impl Fn(&Kept) -> bool,
    ) -> std::result::Result<usize, String> {
        let started = Instant::now();
        loop {
            if let Some(at) = self.kept().iter().skip(from).position(&is_wanted) {
                return Ok(from + at);
            }
            if started.elapsed() > PATIENCE {
                return Err("nothing was announced or proven".to_owned());
            }
            harness.prompt();
            yield_now().await;
        }
    }

    /// Waits until everything from before now is proven. Returns the notices until then.
    async fn wait_for_proof(&self, harness: &impl StreamHarness) -> std::result::Result<Vec<Kept>, String> {
        let now = Instant::now();
        let at = self.wait_for(harness, 0, |kept| matches!(kept, Kept::Proven(moment) if *moment >= now)).await?;
        Ok(self.kept()[..at].to_vec())
    }
}

impl InvalidationSink for Recorder {
    fn apply(&self, notice: Invalidation<'_>) {
        self.kept().push(match notice {
            Invalidation::Begin(_) => Kept::Begin,
            Invalidation::Key(key) => Kept::Key(key.to_vec()),
            Invalidation::Everything => Kept::Everything,
            Invalidation::Gap => Kept::Gap,
            Invalidation::Proven(moment) => Kept::Proven(moment),
            Invalidation::Unknown => Kept::Other,
        });
    }
}

/// Runs the stream of the store beside the test.
async fn beside<S: Store>(store: &S, recorder: &Arc<Recorder>, test: impl Future<Output = Checked>) -> Checked {
    let stream = store.invalidations().expect("the store has a stream");
    let mut run = pin!(stream.run(HEARTBEAT, Arc::clone(recorder) as _));
    let mut test = pin!(test);
    std::future::poll_fn(|context| {
        if let Poll::Ready(error) = run.as_mut().poll(context) {
            return Poll::Ready(Err(format!("the stream has ended: {error}")));
        }
        test.as_mut().poll(context)
    })
    .await
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

async fn set(store: &impl Store<Value = String>, key: &Key) -> Result<()> {
    store.set(Write::new(key.clone(), Entry::new("v".to_owned(), Expiry::Never), Ticket::unconditional())).await
}

/// Makes a change, and checks that it is announced before it is proven.
async fn change(
    harness: &impl StreamHarness,
    recorder: &Recorder,
    key: &Key,
    change: impl Future<Output = Result<()>>,
) -> Checked {
    let from = recorder.kept().len();
    change.await.map_err(|error| error.to_string())?;
    let announced = recorder.wait_for_proof(harness).await?;
    let is_announced = |kept: &Kept| *kept == Kept::Everything || *kept == Kept::Key(key.as_bytes().to_vec());
    if announced.iter().skip(from).any(is_announced) { Ok(()) } else { Err(format!("{key:?} was not announced")) }
}

async fn begins_when_changes_are_announced(harness: &impl StreamHarness) -> Checked {
    let (store, recorder) = (harness.store().await, Arc::<Recorder>::default());
    let test = async {
        if recorder.wait_for(harness, 0, |kept| *kept == Kept::Begin).await? > 0 {
            return Err("something was applied before the beginning".to_owned());
        }
        let key = key("first");
        change(harness, &recorder, &key, set(&store, &key)).await
    };
    beside(&store, &recorder, test).await
}

async fn proves_what_was_announced(harness: &impl StreamHarness) -> Checked {
    let (store, recorder) = (harness.store().await, Arc::<Recorder>::default());
    let test = async {
        recorder.wait_for_proof(harness).await?;
        for name in ["a", "b", "c", "d"] {
            let key = key(name);
            change(harness, &recorder, &key, set(&store, &key)).await?;
        }
        Ok(())
    };
    beside(&store, &recorder, test).await
}

async fn announces_every_change(harness: &impl StreamHarness) -> Checked {
    let (store, recorder) = (harness.store().await, Arc::<Recorder>::default());
    let test = async {
        recorder.wait_for_proof(harness).await?;
        let key = key("k");
        for _ in 0..2 {
            change(harness, &recorder, &key, set(&store, &key)).await?;
            let lifetime = || Lifetime::new(Expiry::after(SystemClock.now(), Duration::from_secs(60).into()));
            let touch = async { store.touch(&key, lifetime(), SystemClock.now()).await.map(drop) };
            change(harness, &recorder, &key, touch).await?;
            change(harness, &recorder, &key, store.del(&key)).await?;
            let fill = async {
                let ticket = store.lease(&key).await?;
                let entry = Entry::new("filled".to_owned(), Expiry::Never);
                store.fill(Write::new(key.clone(), entry, ticket)).await.map(drop)
            };
            change(harness, &recorder, &key, fill).await?;
            change(harness, &recorder, &key, async { store.take(&key).await.map(drop) }).await?;
        }
        set(&store, &key).await.map_err(|error| error.to_string())?;
        change(harness, &recorder, &key, store.clear()).await
    };
    beside(&store, &recorder, test).await
}

async fn ends_when_it_is_cut(harness: &impl StreamHarness) -> Checked {
    let (store, recorder) = (harness.store().await, Arc::<Recorder>::default());
    let stream = store.invalidations().expect("the store has a stream");
    let mut run = pin!(stream.run(HEARTBEAT, Arc::clone(&recorder) as _));
    let mut cutting = pin!(async {
        recorder.wait_for_proof(harness).await?;
        harness.cut().await;
        Ok::<_, String>(Instant::now())
    });
    let mut cut = None;
    std::future::poll_fn(|context| {
        if run.as_mut().poll(context).is_ready() {
            return Poll::Ready(if cut.is_some() { Ok(()) } else { Err("it ended before it was cut".to_owned()) });
        }
        match cut {
            None => {
                if let Poll::Ready(at) = cutting.as_mut().poll(context) {
                    cut = Some(at?);
                }
            }
            Some(cut) if cut.elapsed() > PATIENCE => return Poll::Ready(Err("it goes on".to_owned())),
            Some(_) if recorder.kept().contains(&Kept::Gap) => return Poll::Ready(Ok(())),
            Some(_) => context.waker().wake_by_ref(),
        }
        Poll::Pending
    })
    .await
}

async fn is_silent_after_its_end(harness: &impl StreamHarness) -> Checked {
    let (store, recorder) = (harness.store().await, Arc::<Recorder>::default());
    beside(&store, &recorder, async { recorder.wait_for_proof(harness).await.map(drop) }).await?;
    // The run was dropped. What a driver has received already may still be announced.
    let dropped = Instant::now();
    let key = key("late");
    set(&store, &key).await.map_err(|error| error.to_string())?;
    for _ in 0..1000 {
        harness.prompt();
        yield_now().await;
    }
    let is_late = |kept: &Kept| {
        matches!(kept, Kept::Begin | Kept::Gap) || matches!(kept, Kept::Proven(moment) if *moment >= dropped)
    };
    if recorder.kept().iter().skip(1).any(is_late) {
        Err("something was proven after the end".to_owned())
    } else {
        Ok(())
    }
}
