//! The wait of a call for the loads of its keys.

use std::{
    pin::{Pin, pin},
    task::Poll,
};

use cache_core::{Entry, Key, Result};
use tokio::time::Instant;

use crate::{
    flight::Waiter,
    load::{LoadCall, LoadResult, Loader, ServeStale},
    util::deadline::{Deadline, after},
};

/// A key whose load the call waits for.
pub(super) struct Awaited<V: Clone + Send + Sync + 'static> {
    /// The position of its value in the result.
    pub(super) at: usize,
    pub(super) waiter: Waiter<LoadResult<V>>,
    /// The place of the tier that has a stale entry, which is served if the load fails.
    pub(super) stale: Option<usize>,
    /// `true` if this call has started the load.
    pub(super) is_own: bool,
}

/// A key whose load has ended.
struct Ended<V> {
    at: usize,
    stale: Option<usize>,
    /// `true` if the load began too early for a call that wants new values.
    is_too_early: bool,
    result: LoadResult<V>,
}

/// A call for several keys. One that wants new values has a second round, for the keys whose loads
/// had begun before.
#[derive(Clone, Copy)]
pub(super) struct Round {
    /// When the call began, in the order of [`Loader::begun`].
    pub(super) called: u64,
    pub(super) is_first: bool,
    /// When the call must end.
    pub(super) deadline: Deadline,
    /// When it stops waiting for loads.
    pub(super) wait_deadline: Deadline,
}

/// The value of a key after a round, `None` if it is to be loaded in the next one.
pub(super) type Answer<V> = Option<Result<Option<V>>>;

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Returns `true` if a call waits for the load that replaces this entry.
    pub(super) fn waits_for_fresh(&self, entry: Option<&Entry<V>>, call: &LoadCall) -> bool {
        let is_stale = entry.is_none_or(|entry| entry.is_stale(self.reader.clock.now()));
        is_stale && matches!(call.serve_stale, Some(ServeStale::After(_) | ServeStale::IfLoadFails))
    }

    /// Waits for loads, and enters their values. They are polled together, because one load may
    /// hold what another waits for. Loads that take too long go on in the background, and a stale
    /// value takes their place if there is one.
    pub(super) async fn wait_for_all(
        &self,
        keys: &[Key],
        mut waiting: Vec<Awaited<V>>,
        (call, round): (&LoadCall, Round),
        answers: &mut [Answer<V>],
    ) {
        let limit = round.wait_deadline.share(1, self.settings.soft_timeout);
        let until = after(limit);
        let mut ended: Vec<Ended<V>> = Vec::with_capacity(waiting.len());
        waiting.retain_mut(|Awaited { at, waiter, stale, .. }| match waiter.begin_wait() {
            Ok(()) => true,
            Err(error) => {
                ended.push(Ended { at: *at, stale: *stale, is_too_early: false, result: Err(error) });
                false
            }
        });
        let stale = waiting.iter().filter_map(|awaited| Some((&keys[awaited.at], awaited.stale?)));
        let before_stale = stale.map(|stale| self.time_before_stale(stale, round.deadline)).min();
        if let Some(time) = before_stale {
            let until = after(time).min(until);
            let quick =
                if let Some(ServeStale::After(time)) = call.serve_stale { after(time).min(until) } else { until };
            self.wait_until_any(quick, &mut waiting, &mut ended, (call, round), |_| false).await;
            // No longer, unless other keys of the call are waited for anyway.
            let have_stale = |waiting: &[Awaited<V>]| waiting.iter().all(|awaited| awaited.stale.is_some());
            self.wait_until_any(until, &mut waiting, &mut ended, (call, round), have_stale).await;
            let mut missing = Vec::new();
            for Awaited { at, waiter, stale, is_own } in waiting {
                match self.serve_again(&keys[at], stale, round.deadline).await {
                    Some(value) => {
                        waiter.leave_in_background();
                        answers[at] = Some(Ok(value));
                    }
                    // The key was deleted meanwhile, or was missing from the start.
                    None => missing.push(Awaited { at, waiter, stale: None, is_own }),
                }
            }
            waiting = missing;
        }
        self.wait_until_any(until, &mut waiting, &mut ended, (call, round), |_| false).await;
        // At the timeout, the remaining ones are abandoned.
        for Awaited { at, waiter, .. } in waiting {
            answers[at] = Some(Err(self.abandon(waiter, limit, until)));
        }
        for Ended { at, stale, is_too_early, result } in ended {
            answers[at] = match result {
                _ if is_too_early => None,
                Ok(outcome) => Some(Ok(outcome.entry.into_value())),
                Err(error) => Some(self.serve_again(&keys[at], stale, round.deadline).await.ok_or(error)),
            };
        }
    }

    /// Returns the stale value of a key, unless there is none or it was deleted meanwhile.
    async fn serve_again(&self, key: &Key, stale: Option<usize>, deadline: Deadline) -> Option<Option<V>> {
        let (place, entry) = self.read_again(key, stale?, deadline).await?;
        Some(self.record_served(place, entry).value)
    }

    /// Moves the loads that end before this moment from `waiting` to `ended`, until all have ended
    /// or the rest is not waited for.
    async fn wait_until_any(
        &self,
        until: Instant,
        waiting: &mut Vec<Awaited<V>>,
        ended: &mut Vec<Ended<V>>,
        (call, round): (&LoadCall, Round),
        suffices: impl Fn(&[Awaited<V>]) -> bool,
    ) {
        let all = std::future::poll_fn(|context| {
            waiting.retain_mut(|Awaited { at, waiter, stale, is_own }| match Pin::new(waiter).poll(context) {
                Poll::Ready(outcome) => {
                    let result = outcome.and_then(|outcome| LoadResult::clone(&outcome));
                    let is_too_early =
                        call.wants_new() && !*is_own && self.is_too_early(&result, round.is_first, round.called, call);
                    ended.push(Ended { at: *at, stale: *stale, is_too_early, result });
                    false
                }
                Poll::Pending => true,
            });
            if waiting.is_empty() || suffices(waiting) { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = self.reader.runtime.timeout_at(until, pin!(all)).await;
    }
}
