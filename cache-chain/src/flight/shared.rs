//! The state that the task of a flight and its waiters share.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use cache_core::Result;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sync::{AbortHandle, Mutex, lock};
use crate::util::fault::injected;

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
    /// `true` if the work goes on without waiters and without a slot.
    pub(super) in_background: bool,
    /// The slot of work that goes on without waiters.
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

pub(super) enum Stage<T> {
    Running,
    /// The work has ended, has panicked, or was dropped by the runtime.
    Ended(Result<Arc<T>>),
    /// The last waiter has left, and the work is aborted.
    Abandoned,
}

/// The task of a flight that its last waiter has left.
pub(super) struct Abandoned(Option<AbortHandle>);

impl Abandoned {
    pub(super) fn abort(self) {
        if let Some(task) = self.0
            && !injected!(NotAborted)
        {
            task.abort();
        }
    }
}

impl<T> Shared<T> {
    pub(super) fn new(background: Option<Arc<Semaphore>>) -> Self {
        let state = State {
            stage: Stage::Running,
            waiters: vec![(0, None)],
            next_id: 1,
            task: None,
            in_background: false,
            slot: None,
        };
        Self { state: Mutex::new(state), background }
    }

    pub(super) fn set_task(&self, task: AbortHandle) {
        lock(&self.state).task = Some(task);
    }

    /// Adds a waiter and returns its id, or `None` if the work is aborted.
    pub(super) fn join(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        if matches!(state.stage, Stage::Abandoned) && !injected!(AbandonedJoined) {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        state.waiters.push((id, None));
        state.slot = None;
        Some(id)
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

    /// Removes a waiter. Returns the task if this was the last waiter and the work must not go on.
    pub(super) fn leave(&self, id: u64) -> Option<Abandoned> {
        let mut state = lock(&self.state);
        let at = state.waiters.binary_search_by_key(&id, |(waiter, _)| *waiter);
        let removed = at.ok().map(|at| state.waiters.remove(at));
        let abandoned = self.abandon(&mut state);
        drop(state);
        drop(removed);
        abandoned
    }

    fn abandon(&self, state: &mut State<T>) -> Option<Abandoned> {
        let goes_on = state.in_background && !injected!(BackgroundAborted);
        if !state.waiters.is_empty() || !matches!(state.stage, Stage::Running) || goes_on {
            return None;
        }
        if let Some(Ok(slot)) = self.background.clone().map(Semaphore::try_acquire_owned) {
            state.slot = Some(slot);
            return None;
        }
        state.stage = Stage::Abandoned;
        Some(Abandoned(state.task.take()))
    }
}
