//! Reads of a tier for diagnosis. They are not counted, and the breaker does not learn from them.

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
    /// Asks the store for the key, also if the breaker is open.
    pub(crate) async fn observe(&self, key: &Key) -> Observed<V> {
        if let Some(local) = self.local() {
            return Observed { entry: Ok(local.get(key)), stored: None };
        }
        let limit = self.read_timeout;
        let observe = async {
            let stored = self.store.inspect(key).await.ok().flatten();
            Observed { entry: self.store.get(key).await, stored }
        };
        timeout_at(after(limit), observe).await.unwrap_or_else(|_| {
            let message = format!("tier {} did not answer within {limit:?}", self.title());
            Observed { entry: Err(Error::new(ErrorKind::Timeout, message)), stored: None }
        })
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
