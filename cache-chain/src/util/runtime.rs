//! The tokio runtime in which a chain was built. The chain does all of its work there, whichever
//! runtime or executor calls it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use cache_core::{Error, ErrorKind, Result};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Spawns the tasks of a chain. Nothing depends on the runtime of a caller, which may be idle,
/// ended or without timers.
#[derive(Clone, Debug)]
pub(crate) struct RuntimeHandle(Handle);

impl RuntimeHandle {
    pub(crate) fn new(handle: Handle) -> Self {
        Self(handle)
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.0
    }

    /// Runs the future to its end in a task of its own.
    pub(crate) fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.spawn(future)
    }

    /// Runs the future in a task of its own. Returns an error of kind `Closed` if the runtime has
    /// ended, and panics if the future does.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it aborts the task.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        match AbortOnDrop(self.spawn(future)).await {
            Ok(output) => Ok(output),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(closed()),
        }
    }

    /// Returns the output of the future, or `None` at this moment. The caller polls the future; the
    /// timer runs on the chain's runtime, because the caller's may have none.
    ///
    /// The future is pinned by the caller, because an async function has room for two of each future
    /// that it is given.
    pub(crate) async fn timeout_at<T>(&self, until: Instant, mut future: impl Future<Output = T> + Unpin) -> Option<T> {
        let mut timer = None;
        std::future::poll_fn(|context| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(context) {
                return Poll::Ready(Some(output));
            }
            // Most futures are ready at their first poll or soon after; the timer is started only
            // for those that are not.
            let timer = timer.get_or_insert_with(|| AbortOnDrop(self.spawn(async move { sleep_until(until).await })));
            Pin::new(timer).poll(context).map(|_| None)
        })
        .await
    }
}

/// The error of a call after the chain's runtime has ended.
pub(crate) fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the runtime that the chain was built in has ended; build a new chain in a running one",
    )
}

/// Aborts its task when dropped.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin, time::Duration};

    use cache_core::testkit::block_on;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
    }

    #[test]
    fn timers_and_tasks_run_without_a_runtime_of_the_caller() {
        let runtime = runtime();
        let handle = RuntimeHandle::new(runtime.handle().clone());
        assert_eq!(block_on(handle.run(async { 1 })).unwrap(), 1);
        let soon = Instant::now() + Duration::from_millis(1);
        assert_eq!(block_on(handle.timeout_at(soon, pending::<()>())), None);
        assert_eq!(block_on(handle.timeout_at(soon, pin!(async { 2 }))), Some(2), "what is ready needs no timer");
    }

    #[test]
    fn a_runtime_that_has_ended_is_an_error() {
        let runtime = runtime();
        let handle = RuntimeHandle::new(runtime.handle().clone());
        drop(runtime);
        assert_eq!(block_on(handle.run(async { 1 })).unwrap_err().kind(), ErrorKind::Closed);
        let late = Instant::now() + Duration::from_secs(3600);
        assert_eq!(block_on(handle.timeout_at(late, pending::<()>())), None, "no timer: no waiting");
    }

    #[test]
    fn a_call_that_is_dropped_ends_its_task() {
        let runtime = runtime();
        let handle = RuntimeHandle::new(runtime.handle().clone());
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        let call = handle.run(async move {
            let _held = held;
            pending::<()>().await;
        });
        block_on(async {
            let mut call = Box::pin(call);
            assert!(futures_poll(&mut call).await);
            drop(call);
            assert!(gone.await.is_err());
        });
    }

    /// Polls the future once. Returns `true` if it is pending.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_pending())).await
    }
}
