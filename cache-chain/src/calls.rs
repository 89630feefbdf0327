//! The calls of a tier's store: bounded in time, passed over while it is dead; and how a tier is read, where nothing is trusted
//! that it may hold wrongly.

use std::{pin::Pin, sync::Arc, time::Duration};

use cache_core::{Claim, Entry, Error, ErrorKind, Key, Result, Ticket};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use crate::{budget::after, erased::ErasedStore, tier::Tier};

/// What a tier has of a key.
pub(crate) struct Seen<V> {
    /// It may be stale.
    pub(crate) entry: Option<Entry<V>>,
    /// A ticket for who finds something better below, if the tier gave one.
    pub(crate) ticket: Option<Ticket>,
}

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    fn is_local(&self) -> bool {
        self.local().is_some()
    }

    /// Whether what this tier holds after a failed write is to be deleted: not what is the truth itself.
    pub(crate) fn keeps_journal(&self) -> bool {
        !self.is_local() && !self.origin
    }

    fn failed(&self, error: &Error) {
        self.counters.errors.one();
        if error.kind() == ErrorKind::Timeout {
            self.counters.timeouts.one();
        }
    }

    fn late(&self, limit: Duration) -> Error {
        Error::new(ErrorKind::Timeout, format!("tier {} did not answer within {limit:?}", self.title()))
    }

    fn checked<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| self.failed(error))
    }

    /// A call of the store, if the breaker lets it through; no longer than `limit`. The call is told whether it is a probe.
    pub(crate) async fn guarded<T>(&self, limit: Duration, call: impl AsyncFnOnce(bool) -> Result<T>) -> Result<T> {
        self.passed(limit, 1, call, |_| Some(Ok(()))).await
    }

    /// As [`guarded`](Self::guarded), for so many keys; what to tell the breaker of a result is found by `verdict`, `None` if the
    /// store was not asked.
    pub(crate) async fn passed<T>(
        &self,
        limit: Duration,
        keys: usize,
        call: impl AsyncFnOnce(bool) -> Result<T>,
        verdict: impl FnOnce(&T) -> Option<Result<()>>,
    ) -> Result<T> {
        if self.is_local() {
            return self.checked(call(false).await);
        }
        if limit.is_zero() {
            // Those before have used up the time, which is not held against this tier.
            let message = format!("no time was left to ask tier {}", self.title());
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        let pass = self.breaker.enter(limit).inspect_err(|_| self.counters.skipped.one())?;
        let result = timeout_at(after(limit), call(pass.is_probe())).await.unwrap_or_else(|_| Err(self.late(limit)));
        let verdict = match &result {
            Ok(answer) => verdict(answer),
            Err(error) => Some(Err(error.clone())),
        };
        if let Some(verdict) = verdict {
            pass.report(&verdict, self.title());
        }
        result.inspect_err(|error| (0..keys).for_each(|_| self.failed(error)))
    }

    /// The results of a batch of `count`, each a failure if there are more or fewer.
    pub(crate) async fn guarded_many<T>(
        &self,
        limit: Duration,
        count: usize,
        call: impl AsyncFnOnce(bool) -> Result<Vec<Result<T>>>,
    ) -> Vec<Result<T>> {
        if count == 0 {
            return Vec::new();
        }
        let counted = async |is_probe| {
            let results = call(is_probe).await?;
            if results.len() == count {
                return Ok(results);
            }
            let message = format!("tier {} gave {} results for {count} keys", self.title(), results.len());
            Err(Error::new(ErrorKind::Backend, message))
        };
        match self.passed(limit, count, counted, |results| Some(answered(results))).await {
            Ok(results) => results.into_iter().map(|result| self.checked(result)).collect(),
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    /// What was found, as far as it can be used; bytes that do not decode count as a miss.
    fn judged(&self, found: Result<Option<Entry<V>>>) -> Result<Option<Entry<V>>> {
        match found {
            Ok(Some(entry)) if !self.journal.rejects(&entry) => {
                self.counters.hits.one();
                Ok(Some(entry))
            }
            Ok(_) => {
                self.counters.misses.one();
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Codec => {
                self.counters.undecodable.one();
                self.counters.misses.one();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The entry of the key and, unless it is fresh, a ticket that is needed for `lease`, if it is needed at all; all within
    /// `limit`. A tier that gives no ticket has answered all the same.
    pub(crate) async fn look_up(&self, key: &Key, lease: Option<Duration>, limit: Duration) -> Result<Seen<V>> {
        let is_fresh = |entry: &Option<Entry<V>>| entry.as_ref().is_some_and(|entry| self.is_fresh(entry));
        if let Some(local) = self.local() {
            let entry = self.judged(Ok(local.get(key)))?;
            let ticket = (lease.is_some() && !is_fresh(&entry)).then(|| local.fence().lease(key));
            return Ok(Seen { entry, ticket });
        }
        let until = after(limit);
        let asked = async |is_probe| {
            let repaired = self.repair(is_probe).await.map(drop);
            if is_probe {
                repaired.clone()?;
            }
            match self.distrusted(key, &repaired) {
                // That it is not read is nothing that the store has done.
                Some(error) if repaired.is_ok() => Ok(Err(error)),
                Some(error) => Err(error),
                None => self.judged(self.store.get(key).await).map(Ok),
            }
        };
        let entry = self.passed(limit, 1, asked, |answer| answer.is_ok().then_some(Ok(()))).await??;
        let Some(life) = lease.filter(|_| !is_fresh(&entry)) else { return Ok(Seen { entry, ticket: None }) };
        let rest = until.saturating_duration_since(Instant::now());
        let ticket = if self.leases_here {
            self.store.lease_within(key, life).await
        } else {
            self.guarded(rest, async |_| self.store.lease_within(key, life).await).await
        };
        Ok(Seen { entry, ticket: ticket.ok() })
    }

    pub(crate) fn is_fresh(&self, entry: &Entry<V>) -> bool {
        !entry.turns_stale() || !entry.is_stale(self.clock.now())
    }

    pub(crate) async fn get_many(&self, keys: &[Key], limit: Duration) -> Vec<Result<Option<Entry<V>>>> {
        if keys.is_empty() {
            return Vec::new();
        }
        let asked = async |is_probe| {
            let repaired = self.repair(is_probe).await.map(drop);
            if is_probe {
                repaired.clone()?;
            }
            let found = self.found(keys).await?;
            let verdict = answered(&found);
            let judged = |(key, found)| match self.distrusted(key, &repaired) {
                Some(error) => Err(error),
                None => self.judged(found),
            };
            let judged: Vec<_> = keys.iter().zip(found).map(judged).collect();
            Ok((judged, verdict))
        };
        match self.passed(limit, keys.len(), asked, |(_, verdict)| Some(verdict.clone())).await {
            Ok((found, _)) => found.into_iter().map(|result| self.checked(result)).collect(),
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// One entry for each of the keys, or it is a failure.
    async fn found(&self, keys: &[Key]) -> Result<Vec<Result<Option<Entry<V>>>>> {
        let found = self.store.get_many(keys).await;
        if found.len() == keys.len() {
            return Ok(found);
        }
        let message = format!("tier {} gave {} results for {} keys", self.title(), found.len(), keys.len());
        Err(Error::new(ErrorKind::Backend, message))
    }

    /// A ticket for each of the keys, all within `limit`, which are needed for `life`.
    pub(crate) async fn lease_many(&self, keys: &[Key], limit: Duration, life: Duration) -> Vec<Result<Ticket>> {
        if self.leases_here {
            return self.store.lease_many_within(keys, life).await;
        }
        let leased = self.guarded_many(limit, keys.len(), async |_| {
            Ok(match keys {
                [key] => vec![self.store.lease_within(key, life).await],
                _ => self.store.lease_many_within(keys, life).await,
            })
        });
        leased.await
    }

    pub(crate) async fn claim(&self, key: &Key, limit: Duration) -> Result<Claim> {
        self.guarded(limit, async |_| self.store.claim(key).await).await
    }

    pub(crate) async fn release(&self, key: &Key, ticket: Ticket) -> Result<()> {
        self.guarded(self.write_timeout, async |_| self.store.release(key, ticket).await).await
    }

    pub(crate) async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
        self.guarded(self.write_timeout, async |_| self.store.release_leases(leases).await).await
    }

    /// Waits for the store's buffers. It says nothing about the health of the backend, which the store need not ask, so the
    /// breaker neither stops it nor learns of it.
    pub(crate) async fn wait(&self) -> Result<()> {
        let wait = self.unblocked(|store| Box::pin(async move { store.wait().await }));
        if self.is_local() {
            return self.checked(wait.await);
        }
        let limit = self.write_timeout;
        let waited = timeout_at(after(limit), wait).await;
        self.checked(waited.unwrap_or_else(|_| Err(self.late(limit))))
    }

    /// Runs what blocks the thread in a local store on a thread that may be blocked.
    pub(crate) async fn unblocked(
        &self,
        call: impl FnOnce(Arc<dyn ErasedStore<V>>) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>,
    ) -> Result<()> {
        let call = call(Arc::clone(&self.store));
        if !self.is_local() {
            return call.await;
        }
        let runtime = Handle::current();
        match tokio::task::spawn_blocking(move || runtime.block_on(call)).await {
            Ok(result) => result,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(Error::new(ErrorKind::Closed, "the runtime has ended")),
        }
    }
}

/// Whether a batch was answered: one of which nothing was, was not.
fn answered<T>(results: &[Result<T>]) -> Result<()> {
    match results.first() {
        Some(Err(error)) if results.iter().all(Result::is_err) => Err(error.clone()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_which_anything_was_answered_was_answered() {
        let late = || Err(Error::new(ErrorKind::Timeout, "late"));
        assert!(answered::<()>(&[late(), Ok(())]).is_ok());
        assert!(answered::<()>(&[late(), late()]).is_err());
        assert!(answered::<()>(&[]).is_ok());
    }
}
