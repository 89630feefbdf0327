//! Flights: work on a key that everybody who wants its outcome shares.
//!
//! A flight is a future that its waiters drive together: whoever is polled polls it, and every event wakes all of them. So
//! nobody leads. If the waiter that drives is dropped, another goes on where it stopped, and one that is kept but never
//! polled again holds up nobody. The last waiter to go takes the future with it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use cache_core::{Error, ErrorKind, Key, Result};

use crate::{
    flights::Flights,
    sync::{Mutex, lock},
};

#[cfg(all(test, shuttle))]
pub(crate) mod model;

/// Whether the model has this guard left out, to see that it is missed.
macro_rules! left_out {
    ($fault:ident) => {{
        #[cfg(all(test, shuttle))]
        let left_out = $crate::flight::model::makes($crate::flight::model::Fault::$fault);
        #[cfg(not(all(test, shuttle)))]
        let left_out = false;
        left_out
    }};
}
pub(crate) use left_out;

pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) struct Flight<T> {
    /// Where others find it, and under which key.
    listed: Option<(Flights<T>, Key)>,
    state: Mutex<State<T>>,
}

struct State<T> {
    stage: Stage<T>,
    /// Who waits, in the order of their ids, each with the waker of its last poll.
    waiters: Vec<(u64, Option<Waker>)>,
    next: u64,
    /// The waker of the attendant, if there is one.
    attendant: Option<Waker>,
    /// Whether an event came while the work was being polled.
    notified: bool,
    /// Whether one of the waiters is there to see it to its end.
    seen_to: bool,
}

enum Stage<T> {
    /// Waits for an event, or for its first poll.
    Parked(Work<T>),
    /// Somebody is polling it.
    Flying,
    /// It has come to its end, or has panicked.
    Landed(Result<Arc<T>>),
    /// The last waiter has left.
    Abandoned,
}

impl<T: Send + Sync + 'static> Flight<T> {
    pub(crate) fn start(work: Work<T>, listed: Option<(Flights<T>, Key)>) -> (Arc<Self>, Waiter<T>) {
        let state = State {
            stage: Stage::Parked(work),
            waiters: vec![(0, None)],
            next: 1,
            attendant: None,
            notified: false,
            seen_to: false,
        };
        let flight = Arc::new(Self { listed, state: Mutex::new(state) });
        let waiter = Waiter { flight: Arc::clone(&flight), id: 0, sees_to: false };
        (flight, waiter)
    }

    /// One more waiter, unless all have left.
    pub(crate) fn board(flight: &Arc<Self>) -> Option<Waiter<T>> {
        let mut state = lock(&flight.state);
        if matches!(state.stage, Stage::Abandoned) && !left_out!(AbandonedJoined) {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.waiters.push((id, None));
        Some(Waiter { flight: Arc::clone(flight), id, sees_to: false })
    }

    fn unlist(self: &Arc<Self>) {
        if let Some((flights, key)) = &self.listed {
            flights.unlist(key, self);
        }
    }
}

impl<T> State<T> {
    fn wakers(&self) -> Vec<Waker> {
        let waiting = self.waiters.iter().filter_map(|(_, waker)| waker.clone());
        waiting.chain(self.attendant.clone()).collect()
    }
}

fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// What the work wakes.
impl<T: Send + Sync + 'static> Wake for Flight<T> {
    fn wake(self: Arc<Self>) {
        let wakers = {
            let mut state = lock(&self.state);
            state.notified |= matches!(state.stage, Stage::Flying);
            state.wakers()
        };
        wake_all(wakers);
    }
}

/// One who waits for a flight, and drives it when polled. A clone waits for the same flight.
///
/// # Cancel safety
///
/// Dropped, it leaves the flight to the other waiters; the last one drops the work.
pub(crate) struct Waiter<T: Send + Sync + 'static> {
    flight: Arc<Flight<T>>,
    id: u64,
    sees_to: bool,
}

impl<T: Send + Sync + 'static> Waiter<T> {
    /// The only waiter of work that is listed nowhere.
    pub(crate) fn alone(work: Work<T>) -> Self {
        Flight::start(work, None).1
    }

    /// Whether this waiter is the one to see the flight to its end: the first that asks, for as long as it lives.
    pub(crate) fn sees_to_the_end(&mut self) -> bool {
        let mut state = lock(&self.flight.state);
        self.sees_to |= !std::mem::replace(&mut state.seen_to, true);
        self.sees_to
    }

    /// One who drives the flight without waiting for it; there is to be one at most.
    pub(crate) fn attendant(&self) -> Attendant<T> {
        Attendant(Arc::clone(&self.flight))
    }

    /// One more waiter; `None` if the work is gone.
    pub(crate) fn another(&self) -> Option<Self> {
        Flight::board(&self.flight)
    }
}

impl<T: Send + Sync + 'static> Flight<T> {
    /// Polls the work if nobody else does, after `register` has put the waker where it is found. What the work brought, or
    /// `None` if nobody waits for it any more.
    fn drive(
        self: &Arc<Self>,
        context: &Context<'_>,
        register: impl FnOnce(&mut State<T>, &mut Option<Waker>),
    ) -> Poll<Option<Result<Arc<T>>>> {
        // Wakers are made and dropped outside the lock: they may own a task of another executor, and that a waiter.
        let mut waker = Some(context.waker().clone());
        let mut work = {
            let mut state = lock(&self.state);
            register(&mut state, &mut waker);
            match std::mem::replace(&mut state.stage, Stage::Flying) {
                Stage::Parked(work) => work,
                other => {
                    let answer = match &other {
                        Stage::Landed(outcome) => Poll::Ready(Some(outcome.clone())),
                        Stage::Abandoned => Poll::Ready(None),
                        // Whoever flies it has this waker, too.
                        _ => Poll::Pending,
                    };
                    state.stage = other;
                    return answer;
                }
            }
        };
        drop(waker);
        let notifier = Waker::from(Arc::clone(self));
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let polled = work.as_mut().poll(&mut Context::from_waker(&notifier));
            // What has come to its end is dropped here, where a panic is caught.
            let rest = polled.is_pending().then_some(work);
            (polled, rest)
        }));
        let outcome = match polled {
            Ok((Poll::Ready(outcome), _)) => Ok(Arc::new(outcome)),
            Ok((Poll::Pending, Some(work))) => return self.park(work),
            Ok((Poll::Pending, None)) | Err(_) => Err(Error::new(
                ErrorKind::Panicked,
                "code of the application panicked while a key was being read or loaded, or its runtime has ended",
            )),
        };
        let wakers = {
            let mut state = lock(&self.state);
            if matches!(state.stage, Stage::Abandoned) {
                return Poll::Ready(None);
            }
            state.stage = Stage::Landed(outcome.clone());
            if left_out!(SilentLanding) { Vec::new() } else { state.wakers() }
        };
        if !left_out!(LandedListed) {
            self.unlist();
        }
        wake_all(wakers);
        Poll::Ready(Some(outcome))
    }

    fn park(&self, work: Work<T>) -> Poll<Option<Result<Arc<T>>>> {
        let wakers = {
            let mut state = lock(&self.state);
            if matches!(state.stage, Stage::Abandoned) && !left_out!(ParkedAbandoned) {
                // The attendant flew it while the last waiter left.
                drop(state);
                drop(work);
                return Poll::Ready(None);
            }
            state.stage = Stage::Parked(work);
            // Others found it flying and sleep; this one might not be polled again.
            if std::mem::take(&mut state.notified) && !left_out!(LostEvent) { state.wakers() } else { Vec::new() }
        };
        wake_all(wakers);
        Poll::Pending
    }
}

impl<T: Send + Sync + 'static> Future for Waiter<T> {
    /// What the work brought; an error of kind `Panicked` if it panicked.
    type Output = Result<Arc<T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let driven = self.flight.drive(context, |state, waker| {
            if let Ok(at) = state.waiters.binary_search_by_key(&self.id, |(waiter, _)| *waiter) {
                std::mem::swap(&mut state.waiters[at].1, waker);
            }
        });
        match driven {
            Poll::Ready(Some(outcome)) => Poll::Ready(outcome),
            // While this one waits, the work is not abandoned.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Drives the work for those who wait for it, should they all be kept and not polled: it may hold what others need. It is no
/// waiter. It ends with the flight, and when the last waiter has left.
pub(crate) struct Attendant<T: Send + Sync + 'static>(Arc<Flight<T>>);

impl<T: Send + Sync + 'static> Future for Attendant<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.drive(context, |state, waker| std::mem::swap(&mut state.attendant, waker)).map(drop)
    }
}

impl<T: Send + Sync + 'static> Drop for Waiter<T> {
    fn drop(&mut self) {
        // Dropped after the lock, as all wakers are.
        let (left, attendant);
        let abandoned = {
            let mut state = lock(&self.flight.state);
            state.seen_to &= !self.sees_to;
            if let Ok(at) = state.waiters.binary_search_by_key(&self.id, |(waiter, _)| *waiter) {
                left = Some(state.waiters.remove(at));
            } else {
                left = None;
            }
            // Every event has woken the others as well, so they need not be told.
            if !state.waiters.is_empty() || matches!(state.stage, Stage::Landed(_)) {
                return;
            }
            attendant = state.attendant.take();
            std::mem::replace(&mut state.stage, Stage::Abandoned)
        };
        if !left_out!(LeftListed) {
            self.flight.unlist();
        }
        drop((abandoned, left));
        if !left_out!(AttendantLeftAsleep) {
            attendant.into_iter().for_each(Waker::wake);
        }
    }
}
