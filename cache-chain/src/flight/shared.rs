//! The state that the task of a flight and its waiters share.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use cache_core::Result;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sync::{AbortHandle, Mutex, lock};
use crate::util::fault::injected;

pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The state of a flight. It begins with one waiter, whose id is 0.
pub(super) struct Shared<T> {
    pub(super) state: Mutex<State<T>>,
    /// Slots for work that goes on without waiters.
    background: Option<Arc<Semaphore>>,
}

pub(super) struct State<T> {
    pub(super) stage: Stage<T>,
    /// The waiters in the order of their ids, each with the waker of its last poll.
    waiters: Vec<(u64, Option<Waker>)>,
    next_id: u64,
    task: Option<AbortHandle>,
    by_caller: ByCaller<T>,
    /// `true` if the work goes on without waiters and without a slot.
    pub(super) in_background: bool,
    /// The slot of work that goes on without waiters.
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

/// The work of a flight that its first caller runs, which has the id 0.
pub(super) enum ByCaller<T> {
    /// A task runs the work, or it has ended.
    No,
    /// The caller is to poll the work next.
    Waits(Work<T>),
    /// The caller is polling it.
    Polled,
    /// The caller is polling it, and another one has joined.
    PolledLast,
}

/// What is left when the last waiter has left.
pub(super) enum Left<T> {
    /// The work is aborted.
    Abandoned(Abandoned<T>),
    /// The work goes on and needs a task.
    Work(Work<T>),
}

pub(super) enum Stage<T> {
    Running,
    /// The work has ended, has panicked, or was dropped by the runtime.
    Ended(Result<Arc<T>>),
    /// The last waiter has left, and the work is aborted.
    Abandoned,
}

/// The work of a flight that its last waiter has left: its task, or the work itself.
pub(super) struct Abandoned<T>(Option<AbortHandle>, Option<Work<T>>);

impl<T> Abandoned<T> {
    pub(super) fn abort(self) {
        if let Some(task) = self.0
            && !injected!(NotAborted)
        {
            task.abort();
        }
        // The work may hold values of the application.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self.1)));
    }
}

impl<T> Shared<T> {
    pub(super) fn new(background: Option<Arc<Semaphore>>) -> Self {
        let state = State {
            stage: Stage::Running,
            waiters: vec![(0, None)],
            next_id: 1,
            task: None,
            by_caller: ByCaller::No,
            in_background: false,
            slot: None,
        };
        Self { state: Mutex::new(state), background }
    }

    pub(super) fn set_task(&self, task: AbortHandle) {
        lock(&self.state).task = Some(task);
    }

    /// Gives the work to the first caller. Returns it if it needs a task, because another caller has
    /// joined already.
    pub(super) fn give_to_caller(&self, work: Work<T>) -> Option<Work<T>> {
        let mut state = lock(&self.state);
        if state.waiters.len() > 1 {
            return Some(work);
        }
        state.by_caller = ByCaller::Waits(work);
        None
    }

    /// Returns the work for a poll of the first caller, `None` if a task runs it or it has ended.
    pub(super) fn take_turn(&self) -> Option<Work<T>> {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut state.by_caller, ByCaller::No) {
            ByCaller::Waits(work) => {
                state.by_caller = ByCaller::Polled;
                // The caller is here, so the end of the work must not wake it.
                let waker = state.waiters.first_mut().and_then(|(_, waker)| waker.take());
                drop(state);
                drop(waker);
                Some(work)
            }
            other => {
                state.by_caller = other;
                None
            }
        }
    }

    /// Ends a poll of the first caller, whose work is pending. Returns the work if it needs a task,
    /// because it has asked for one or because another caller has joined.
    pub(super) fn put_back(&self, work: Work<T>, needs_task: bool, context: &Context<'_>) -> Option<Work<T>> {
        let mut waker = Some(context.waker().clone());
        let mut state = lock(&self.state);
        // The task may end before the caller is polled again.
        if let Some((0, first)) = state.waiters.first_mut() {
            std::mem::swap(first, &mut waker);
        }
        let is_joined = matches!(state.by_caller, ByCaller::PolledLast) && !injected!(JoinedIgnored);
        let left = if needs_task || is_joined {
            state.by_caller = ByCaller::No;
            Some(work)
        } else {
            state.by_caller = ByCaller::Waits(work);
            None
        };
        drop(state);
        left
    }

    /// Adds a waiter and returns its id, or `None` if the work is aborted. Also returns the work if
    /// it needs a task from now on, because its caller might not poll it again.
    pub(super) fn join(&self) -> Option<(u64, Option<Work<T>>)> {
        let mut state = lock(&self.state);
        if matches!(state.stage, Stage::Abandoned) && !injected!(AbandonedJoined) {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        state.waiters.push((id, None));
        state.slot = None;
        let work = match std::mem::replace(&mut state.by_caller, ByCaller::No) {
            ByCaller::Waits(work) => Some(work),
            ByCaller::No => None,
            ByCaller::Polled | ByCaller::PolledLast => {
                state.by_caller = ByCaller::PolledLast;
                None
            }
        };
        Some((id, work))
    }

    /// Ends the flight and returns the wakers of its waiters, or `None` if it had ended before.
    pub(super) fn end(&self, outcome: Result<Arc<T>>) -> Option<impl Iterator<Item = Waker> + use<T>> {
        let mut state = lock(&self.state);
        if !matches!(state.stage, Stage::Running) {
            return None;
        }
        state.stage = Stage::Ended(outcome);
        state.slot = None;
        let waiters = if injected!(SilentEnd) { Vec::new() } else { std::mem::take(&mut state.waiters) };
        Some(waiters.into_iter().filter_map(|(_, waker)| waker))
    }

    pub(super) fn poll(&self, id: u64, context: &Context<'_>) -> Poll<Result<Arc<T>>> {
        // Wakers are cloned and dropped outside of the lock: a waker may own a task that owns a
        // waiter of this flight.
        let mut waker = Some(context.waker().clone());
        let mut state = lock(&self.state);
        if let Stage::Ended(outcome) = &state.stage {
            return Poll::Ready(outcome.clone());
        }
        if let Ok(at) = state.waiters.binary_search_by_key(&id, |(waiter, _)| *waiter) {
            std::mem::swap(&mut state.waiters[at].1, &mut waker);
        }
        drop(state);
        Poll::Pending
    }

    /// Lets the work go on when the last waiter has left.
    pub(super) fn keep_running(&self) {
        lock(&self.state).in_background = true;
    }

    /// Removes a waiter. Returns what is left if this was the last waiter and something is to be done
    /// about it.
    pub(super) fn leave(&self, id: u64) -> Option<Left<T>> {
        let mut state = lock(&self.state);
        let at = state.waiters.binary_search_by_key(&id, |(waiter, _)| *waiter);
        let removed = at.ok().map(|at| state.waiters.remove(at));
        let left = self.end_without_waiters(&mut state);
        drop(state);
        drop(removed);
        left
    }

    fn end_without_waiters(&self, state: &mut State<T>) -> Option<Left<T>> {
        if !state.waiters.is_empty() || !matches!(state.stage, Stage::Running) {
            return None;
        }
        let work = match std::mem::replace(&mut state.by_caller, ByCaller::No) {
            ByCaller::Waits(work) => Some(work),
            _ => None,
        };
        if state.in_background && !injected!(BackgroundAborted) {
            return work.map(Left::Work);
        }
        if let Some(Ok(slot)) = self.background.clone().map(Semaphore::try_acquire_owned) {
            state.slot = Some(slot);
            return work.map(Left::Work);
        }
        state.stage = Stage::Abandoned;
        Some(Left::Abandoned(Abandoned(state.task.take(), work)))
    }
}
