//! Work in progress that others wait for.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::sync::lock;

/// Numbered pieces of work that have begun and not ended.
#[derive(Debug)]
pub(crate) struct Pending {
    state: Mutex<State>,
    /// The number of the oldest one, or the next number if there is none.
    oldest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    numbers: BTreeSet<u64>,
    next: u64,
}

/// A piece of work, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct PendingGuard {
    pending: Arc<Pending>,
    number: u64,
}

impl Default for Pending {
    fn default() -> Self {
        Self { state: Mutex::default(), oldest: watch::Sender::new(0) }
    }
}

impl Pending {
    pub(crate) fn begin(self: &Arc<Self>) -> PendingGuard {
        let mut state = lock(&self.state);
        let number = state.next;
        state.next += 1;
        state.numbers.insert(number);
        PendingGuard { pending: Arc::clone(self), number }
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.state).numbers.len()
    }

    /// Waits for all that has begun by now. Cancel safe.
    pub(crate) async fn wait(&self) {
        let next = lock(&self.state).next;
        // The sender cannot be dropped meanwhile.
        let _ = self.oldest.subscribe().wait_for(|oldest| *oldest >= next).await;
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.pending.state);
        state.numbers.remove(&self.number);
        let oldest = state.numbers.first().copied().unwrap_or(state.next);
        // Under the lock, so that a later number is not overtaken by an earlier one.
        self.pending.oldest.send_if_modified(|current| std::mem::replace(current, oldest) != oldest);
    }
}
