//! Calls to a tier's store: limited in time, and skipped while the circuit breaker is open.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use cache_core::{Error, ErrorKind, Result};
use smallvec::SmallVec;
use tokio::{runtime::Handle, time::timeout_at};

use super::{Tier, erased::ErasedStore, operation::Operation};
use crate::util::deadline::after;

/// One result per key. A single key needs no allocation.
pub(crate) type Each<T> = SmallVec<[T; 1]>;

/// The report of a call to the breaker; `None` if the store was not asked.
pub(super) type Verdict = Option<Result<()>>;

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// Calls the store for one result. The call is told whether it is a probe of the breaker.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Timeout` after `limit`, and of kind `Unavailable` if the breaker
    /// skips the call.
    pub(super) async fn call<T>(
        &self,
        operation: Operation,
        limit: Duration,
        call: impl AsyncFnOnce(bool) -> Result<T>,
    ) -> Result<T> {
        let verdict = async |is_probe| call(is_probe).await.map(|answer| (answer, Some(Ok(()))));
        self.call_with_verdict(operation, limit, 1, verdict).await
    }

    /// Calls the store for `count` results; an error is the result of all of them.
    pub(super) async fn call_for_each<T>(
        &self,
        operation: Operation,
        limit: Duration,
        count: usize,
        call: impl AsyncFnOnce(bool) -> Each<Result<T>>,
    ) -> Each<Result<T>> {
        if count == 0 {
            return Each::new();
        }
        let checked = async |is_probe| {
            let results = self.complete(call(is_probe).await, count)?;
            let verdict = verdict(&results);
            Ok((results, Some(verdict)))
        };
        self.counted(self.call_with_verdict(operation, limit, count, checked).await, count)
    }

    /// As [`call`](Self::call), for `count` keys. The call also returns its report to the breaker.
    pub(super) async fn call_with_verdict<T>(
        &self,
        operation: Operation,
        limit: Duration,
        keys: usize,
        call: impl AsyncFnOnce(bool) -> Result<(T, Verdict)>,
    ) -> Result<T> {
        if self.is_local() {
            return call(false).await.map(|(answer, _)| answer).inspect_err(|error| self.count_error(error));
        }
        if limit.is_zero() {
            // The tiers before have used up the time, which is not a failure of this one.
            let message = format!("no time was left to ask tier {}", self.title());
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        let longest = self.read_timeout.max(self.write_timeout);
        let pass = match &self.breaker {
            // A `clear` has no limit. As a probe it would keep the breaker half open for as long as
            // it takes.
            Some(breaker) => {
                Some(breaker.enter(limit.min(longest)).inspect_err(|_| self.counters.skipped.increment())?)
            }
            None => None,
        };
        let is_probe = pass.as_ref().is_some_and(super::breaker::Pass::is_probe);
        let durations = self.durations.of(operation);
        let started = durations.start();
        let span = self.spans.tier_call(&self.name, operation.name(), keys);
        let called = pin!(timeout_at(after(limit), call(is_probe)));
        let result = span.enclose(called).await.unwrap_or_else(|_| Err(self.late(limit)));
        let (result, verdict) = match result {
            Ok((answer, verdict)) => (Ok(answer), verdict),
            Err(error) => (Err(error.clone()), Some(Err(error))),
        };
        span.outcome(
            verdict.as_ref().map_or(Ok(&()), Result::as_ref),
            if verdict.is_some() { "ok" } else { "not_asked" },
        );
        if let Some(verdict) = verdict {
            if let Some(pass) = pass {
                pass.report(&verdict, self.title());
            }
            durations.end(started, verdict.is_ok());
        }
        result.inspect_err(|error| (0..keys).for_each(|_| self.count_error(error)))
    }

    /// The results of a batch, whose errors are counted. An error of the whole batch was counted by
    /// the call.
    pub(super) fn counted<T>(&self, results: Result<Each<Result<T>>>, count: usize) -> Each<Result<T>> {
        match results {
            Ok(results) => {
                results.iter().filter_map(|result| result.as_ref().err()).for_each(|error| self.count_error(error));
                results
            }
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    /// Checks that a store has returned one result per key.
    pub(super) fn complete<T>(&self, results: Each<T>, count: usize) -> Result<Each<T>> {
        if results.len() == count {
            return Ok(results);
        }
        let message = format!("the store of tier {} returned {} results for {count} keys", self.title(), results.len());
        Err(Error::new(ErrorKind::Backend, message))
    }

    pub(super) fn count_error(&self, error: &Error) {
        self.counters.errors.increment();
        if error.kind() == ErrorKind::Timeout {
            self.counters.timeouts.increment();
        }
    }

    fn late(&self, limit: Duration) -> Error {
        Error::new(ErrorKind::Timeout, format!("tier {} did not answer within {limit:?}", self.title()))
    }

    /// Waits for the store's buffers. The store need not ask its backend for that, so the breaker
    /// neither skips the call nor learns from it.
    pub(crate) async fn wait(&self) -> Result<()> {
        let wait = self.blocking(|store| Box::pin(async move { store.wait().await }));
        let waited = if self.is_local() {
            wait.await
        } else {
            let limit = self.write_timeout;
            timeout_at(after(limit), wait).await.unwrap_or_else(|_| Err(self.late(limit)))
        };
        waited.inspect_err(|error| self.count_error(error))
    }

    /// Runs a call on a thread that may block, if the store is local: such a call blocks its
    /// thread.
    pub(super) async fn blocking(
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

/// The verdict on a batch: it was answered if any of its keys was.
pub(super) fn verdict<T>(results: &[Result<T>]) -> Result<()> {
    match results.first() {
        Some(Err(error)) if results.iter().all(Result::is_err) => Err(error.clone()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_was_answered_if_any_of_its_keys_was() {
        let late = || Err(Error::new(ErrorKind::Timeout, "late"));
        assert!(verdict::<()>(&[late(), Ok(())]).is_ok());
        assert!(verdict::<()>(&[late(), late()]).is_err());
        assert!(verdict::<()>(&[]).is_ok());
    }
}
