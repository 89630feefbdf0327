//! Flights: work on a key whose outcome all interested callers share.
//!
//! A flight is one task on the chain's runtime, and its waiters only wait. So the work depends neither on whether a waiter
//! is polled nor on the runtime of a waiter, an event in the work wakes one task, and the end of the work wakes each waiter
//! once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use cache_core::{Error, ErrorKind, Key, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    flights::Flights,
    left_out::left_out,
    nesting::{Node, Wait, scope},
    panics::caught,
    runtime::{RuntimeHandle, closed},
    sync::{AbortHandle, Mutex, lock, spawn},
};

#[cfg(all(test, shuttle))]
pub(crate) mod model;

pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) struct Flight<T> {
    node: Arc<Node>,
    /// Where others find it by its key.
    listed: Option<Flights<T>>,
    /// If there is room, the work goes on when the last waiter has left.
    room: Option<Arc<Semaphore>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    stage: Stage<T>,
    /// The waiters in the order of their ids, each with the waker of its last poll.
    waiters: Vec<(u64, Option<Waker>)>,
    next: u64,
    task: Option<AbortHandle>,
    /// Whether the work goes on without waiters, however many do so.
    in_background: bool,
    /// The place in the room, while the work goes on without waiters there.
    place: Option<OwnedSemaphorePermit>,
}

enum Stage<T> {
    Running,
    /// The work has ended, has panicked, or was dropped by the runtime.
    Ended(Result<Arc<T>>),
    /// The last waiter has left, and the work is aborted.
    Abandoned,
}

impl<T: Send + Sync + 'static> Flight<T> {
    /// A flight with one waiter. Its work is yet to be [spawned](Self::spawn).
    pub(crate) fn new(node: Node, listed: Option<Flights<T>>, room: Option<Arc<Semaphore>>) -> (Arc<Self>, Waiter<T>) {
        let state = State {
            stage: Stage::Running,
            waiters: vec![(0, None)],
            next: 1,
            task: None,
            in_background: false,
            place: None,
        };
        let flight = Arc::new(Self { node: Arc::new(node), listed, room, state: Mutex::new(state) });
        let waiter = Waiter { flight: Arc::clone(&flight), id: 0, wait: None };
        (flight, waiter)
    }

    pub(crate) fn spawn(self: &Arc<Self>, runtime: &RuntimeHandle, work: Work<T>) {
        let driver = Driver(Arc::clone(self));
        // If the runtime has ended, the task is dropped at once.
        let task = spawn(runtime, driver.drive(work));
        lock(&self.state).task = Some(task);
    }

    /// One more waiter, unless the work is aborted.
    pub(crate) fn join(flight: &Arc<Self>) -> Option<Waiter<T>> {
        let mut state = lock(&flight.state);
        if matches!(state.stage, Stage::Abandoned) && !left_out!(AbandonedJoined) {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.waiters.push((id, None));
        state.place = None;
        Some(Waiter { flight: Arc::clone(flight), id, wait: None })
    }

    fn end(self: &Arc<Self>, outcome: Result<Arc<T>>) {
        let waiters = {
            let mut state = lock(&self.state);
            if !matches!(state.stage, Stage::Running) {
                return;
            }
            state.stage = Stage::Ended(outcome);
            state.place = None;
            if left_out!(SilentEnd) { Vec::new() } else { std::mem::take(&mut state.waiters) }
        };
        if !left_out!(EndedListed) {
            self.unlist();
        }
        for waker in waiters.into_iter().filter_map(|(_, waker)| waker) {
            // A waker that panics must not keep the others from being woken.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    fn unlist(self: &Arc<Self>) {
        if let (Some(flights), Some(key)) = (&self.listed, self.key()) {
            flights.unlist(key, self);
        }
    }

    pub(crate) fn key(&self) -> Option<&Key> {
        self.node.key.as_ref()
    }
}

/// Ends the flight when it is dropped: the work has ended, has panicked, or its task was dropped.
struct Driver<T: Send + Sync + 'static>(Arc<Flight<T>>);

impl<T: Send + Sync + 'static> Driver<T> {
    async fn drive(self, work: Work<T>) {
        let outcome = caught(scope(Arc::clone(&self.0.node), work)).await;
        self.0.end(outcome.map(Arc::new).ok_or_else(panicked));
    }
}

impl<T: Send + Sync + 'static> Drop for Driver<T> {
    fn drop(&mut self) {
        if !left_out!(DroppedSilently) {
            // Nothing happens if it has ended.
            self.0.end(Err(if std::thread::panicking() { panicked() } else { closed() }));
        }
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Panicked, "code of the application panicked while a key was being read or loaded")
}

/// A waiter for the outcome of a flight.
///
/// # Cancel safety
///
/// Dropped, it leaves the flight to the other waiters. The last one aborts the work, unless that goes on in the background.
pub(crate) struct Waiter<T: Send + Sync + 'static> {
    flight: Arc<Flight<T>>,
    id: u64,
    /// The wait of the flight whose code waits here, if there is one.
    wait: Option<Wait>,
}

impl<T: Send + Sync + 'static> Waiter<T> {
    /// Tells the graph of nested calls about this waiter. To be called before the first poll.
    ///
    /// # Errors
    ///
    /// Of kind [`Cycle`](ErrorKind::Cycle) if the flight waits for the one whose code waits here.
    pub(crate) fn begin_wait(&mut self) -> Result<()> {
        self.wait = Wait::begin(&self.flight.node)?;
        Ok(())
    }

    /// Leaves the flight, which goes on to its end.
    pub(crate) fn leave_in_background(self) {
        lock(&self.flight.state).in_background = true;
    }

    /// One more waiter, or `None` if the work is aborted.
    pub(crate) fn another(&self) -> Option<Self> {
        Flight::join(&self.flight)
    }
}

impl<T: Send + Sync + 'static> Future for Waiter<T> {
    /// What the work returned; an error of kind `Panicked` if it panicked, of kind `Closed` if the runtime has ended.
    type Output = Result<Arc<T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Wakers are made and dropped outside of the lock: one may own the task of another executor, and that a waiter.
        let mut waker = Some(context.waker().clone());
        let mut state = lock(&self.flight.state);
        if let Stage::Ended(outcome) = &state.stage {
            return Poll::Ready(outcome.clone());
        }
        if let Ok(at) = state.waiters.binary_search_by_key(&self.id, |(waiter, _)| *waiter) {
            std::mem::swap(&mut state.waiters[at].1, &mut waker);
        }
        Poll::Pending
    }
}

impl<T: Send + Sync + 'static> Drop for Waiter<T> {
    fn drop(&mut self) {
        let left;
        let task = {
            let mut state = lock(&self.flight.state);
            let at = state.waiters.binary_search_by_key(&self.id, |(waiter, _)| *waiter);
            left = at.ok().map(|at| state.waiters.remove(at));
            let stays = state.in_background && !left_out!(BackgroundAborted);
            if !state.waiters.is_empty() || !matches!(state.stage, Stage::Running) || stays {
                return;
            }
            if let Some(Ok(place)) = self.flight.room.clone().map(Semaphore::try_acquire_owned) {
                state.place = Some(place);
                return;
            }
            state.stage = Stage::Abandoned;
            state.task.take()
        };
        drop(left);
        if !left_out!(LeftListed) {
            self.flight.unlist();
        }
        if let Some(task) = task
            && !left_out!(NotAborted)
        {
            task.abort();
        }
    }
}
