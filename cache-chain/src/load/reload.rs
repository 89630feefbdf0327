//! Loads for calls that want a new value.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use cache_core::{ErrorKind, Key, Result};

use super::{LoadCall, LoadFn, LoadOutcome, LoadResult, Loader, Reason};
use crate::{
    flight::Mark,
    outcome::Found,
    util::{deadline::Deadline, runtime::closed},
};

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Loads the key for a call that wants a new value. A load that was in flight before may have
    /// read an older one; then the call waits for its end, and starts or joins the next one. So at
    /// most two loads of the key follow one another, however many callers there are.
    pub(super) async fn load_new(
        self: &Arc<Self>,
        (key, mark): (&Key, Mark),
        reason: Reason<V>,
        (load, call): (LoadFn<V>, &LoadCall),
        deadline: Deadline,
    ) -> Result<Found<V>> {
        let called = self.call_began();
        // For both loads together.
        let deadline = deadline.within(self.settings.soft_timeout);
        let is_reload = matches!(reason, Reason::Reload(_));
        let mut unused = Some((reason, load));
        let mut is_first = true;
        loop {
            let (waiter, was_started) = self.loads.join(key, || {
                let (loader, key, call, unused) = (Arc::clone(self), key.clone(), call.clone(), unused.take());
                let span = self.reader.spans.load(std::slice::from_ref(&key));
                Box::pin(async move {
                    let Some((reason, load)) = unused else { return Err(closed()) };
                    span.load(pin!(loader.run((&key, mark), reason, load, &call))).await
                })
            });
            self.counters.joined.add(usize::from(!was_started));
            self.counters.reloads.add(usize::from(was_started && is_reload));
            let outcome = self.wait_for(waiter, deadline).await;
            if was_started || !self.is_too_early(&outcome, is_first, called, call) {
                return outcome.map(|LoadOutcome { entry, place, .. }| self.reader.found(place, entry));
            }
            is_first = false;
        }
    }

    /// Returns the place of a call that begins now in the order of [`begun`](Self::begun).
    pub(super) fn call_began(&self) -> u64 {
        1 + self.begun.fetch_add(1, Ordering::SeqCst)
    }

    /// Returns `true` if the outcome of a load that a call has joined is too old for the call, because
    /// the load began too early. The first one that a call joins may have begun before it.
    pub(super) fn is_too_early(&self, outcome: &LoadResult<V>, is_first: bool, called: u64, call: &LoadCall) -> bool {
        match outcome {
            Ok(LoadOutcome { began, .. }) if call.reload => *began < called,
            // A value that was just loaded is young.
            Ok(LoadOutcome { place: None, .. }) => false,
            Ok(LoadOutcome { entry, .. }) => !call.query.accepts_age(entry, || self.reader.clock.now()),
            // These are errors of the wait.
            Err(error) => {
                is_first && !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Closed | ErrorKind::Cycle)
            }
        }
    }

    /// The present moment in the order of [`begun`](Self::begun).
    pub(super) fn began(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }
}
