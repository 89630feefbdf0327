//! What is started is finished.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use cache_core::Result;
use tokio::{runtime::Handle, sync::watch};

/// The runtime that a chain works on, and the writes that go on there without their callers.
#[derive(Clone)]
pub(crate) struct Ground {
    runtime: Handle,
    orphans: Arc<watch::Sender<usize>>,
}

impl Ground {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, orphans: Arc::new(watch::Sender::new(0)) }
    }

    /// Polls the future inside a runtime: that of the caller or, on another executor, that of the chain.
    pub(crate) async fn within<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        std::future::poll_fn(|context| {
            let _entered = Handle::try_current().is_err().then(|| self.runtime.enter());
            future.as_mut().poll(context)
        })
        .await
    }

    /// Has the future run in a task of its own, where this is called or, on another executor, where the chain was built.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        Handle::try_current().unwrap_or_else(|_| self.runtime.clone()).spawn(future);
    }

    /// A write that runs to its end: dropped before, the rest of it goes on in a task of its own. It is made when it is about
    /// to be polled.
    pub(crate) fn complete(&self, write: impl Future<Output = Result<()>> + Send + 'static) -> Completion {
        let ground = self.clone();
        let write = Box::pin(async move { ground.within(write).await });
        Completion { write: Some(write), ground: self.clone() }
    }

    /// Returns when no write goes on without its caller.
    pub(crate) async fn orphans_done(&self) {
        // It cannot fail: this holds the sender.
        let _ = self.orphans.subscribe().wait_for(|count| *count == 0).await;
    }
}

pub(crate) struct Completion {
    write: Option<Pin<Box<dyn Future<Output = Result<()>> + Send>>>,
    ground: Ground,
}

impl Future for Completion {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        // Not in its place while it is polled: should it panic, there is no rest of it to go on with.
        let mut write = self.write.take().expect("not polled after it was ready");
        let polled = write.as_mut().poll(context);
        if polled.is_pending() {
            self.write = Some(write);
        }
        polled
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(write) = self.write.take() {
            let orphan = Orphan::new(Arc::clone(&self.ground.orphans));
            self.ground.spawn(async move {
                let _counted = orphan;
                // Its error has no caller to go to; the tiers have counted it.
                let _ = write.await;
            });
        }
    }
}

/// Counts a write for as long as it goes on, also if its task is thrown away.
struct Orphan(Arc<watch::Sender<usize>>);

impl Orphan {
    fn new(count: Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
