//! Reads of a tier for diagnosis. They are not counted, and the breaker does not learn from them.

use std::time::Duration;

use cache_core::{Entry, Error, ErrorKind, Key, Result, backend::Inspection};
use tokio::time::timeout_at;

use super::{Tier, breaker::Circuit};
use crate::{stats::BreakerState, util::deadline::after};

/// What a tier holds of a key, whether a read would return it or not.
pub(crate) struct Observed<V> {
    pub(crate) entry: Result<Option<Entry<V>>>,
    /// What is stored under the key, if the store tells.
    pub(crate) stored: Option<Inspection>,
}

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// Asks the store for the key within `limit`, also if the breaker is open, and then what is
    /// stored under it.
    pub(crate) async fn observe(&self, key: &Key, limit: Duration) -> Observed<V> {
        if let Some(local) = self.local() {
            return Observed { entry: Ok(local.get(key)), stored: None };
        }
        let entry = timeout_at(after(limit), self.store.get(key)).await.unwrap_or_else(|_| {
            let message = format!("tier {} did not answer within {limit:?}", self.title());
            Err(Error::new(ErrorKind::Timeout, message))
        });
        let has_answered = entry.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Codec);
        let stored =
            if has_answered { timeout_at(after(self.read_timeout), self.store.inspect(key)).await.ok() } else { None };
        Observed { entry, stored: stored.and_then(Result::ok).flatten() }
    }

    /// Returns the error with which the breaker would refuse a call now, `None` if it would not.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.breaker.as_ref().filter(|_| !self.is_local()).and_then(Circuit::refusal)
    }

    /// Returns `true` if a read would try now to delete what a failed write has left.
    pub(crate) fn may_repair(&self) -> bool {
        self.pending.may_start()
    }

    /// Returns the state of the breaker, `None` without one.
    pub(crate) fn breaker_state(&self) -> Option<BreakerState> {
        self.breaker.as_ref().filter(|_| !self.is_local()).map(Circuit::observed)
    }

    /// Returns `true` if an older value of the key may be in the tier after a failed write.
    pub(crate) fn awaits_delete(&self, key: &Key) -> bool {
        !self.pending.is_empty() && self.pending.awaits_delete(key)
    }

    /// Returns `true` if this entry may be older than a failed `clear`.
    pub(crate) fn rejects(&self, entry: &Entry<V>) -> bool {
        self.pending.rejects(entry)
    }
}
