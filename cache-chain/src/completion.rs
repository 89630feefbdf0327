//! What is started is finished, and what comes after it waits for that.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use cache_core::{Key, Result};
use tokio::{runtime::Handle, sync::watch, time::timeout};

use crate::{
    orphans::{Orphan, Orphans},
    runtime::RuntimeHandle,
};

/// How long a write waits for those whose callers gave up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The runtime that a chain works on, and the writes that go on there without their callers.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) runtime: RuntimeHandle,
    orphans: Arc<watch::Sender<Orphans>>,
}

impl Ground {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime: RuntimeHandle::new(runtime), orphans: Arc::default() }
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

    /// Has the future run in a task of its own, where the chain was built.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// A write of these keys (`None`: of all) that runs to its end: dropped before, the rest of it goes on in a task of its own.
    /// It begins when the writes of the same keys have ended that go on so already: their callers gave up before this one began,
    /// and must not have the last word. It waits for them for half a minute at most, which is more than the timeouts of some
    /// tiers add up to.
    ///
    /// It is made when it is about to be polled.
    pub(crate) fn complete(
        &self,
        keys: Option<Arc<[Key]>>,
        write: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Completion {
        let ground = self.clone();
        let before = self.orphans.borrow().before(keys.as_deref());
        let write = Box::pin(async move {
            if !before.is_empty() {
                let mut orphans = ground.orphans.subscribe();
                // It cannot fail: this holds the sender. But a `clear` may take for ever.
                let done = orphans.wait_for(|orphans| !orphans.has_any_of(&before));
                let _ = ground.within(async { timeout(PATIENCE, done).await.map(drop) }).await;
            }
            ground.within(write).await
        });
        Completion { write: Some(write), keys, ground: self.clone() }
    }

    /// Returns when no write goes on without its caller.
    pub(crate) async fn orphans_done(&self) {
        // It cannot fail: this holds the sender.
        let _ = self.orphans.subscribe().wait_for(Orphans::is_empty).await;
    }
}

pub(crate) struct Completion {
    write: Option<Pin<Box<dyn Future<Output = Result<()>> + Send>>>,
    keys: Option<Arc<[Key]>>,
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
            let orphan = Orphan::new(&self.ground.orphans, self.keys.take());
            self.ground.spawn(async move {
                let _counted = orphan;
                // Its error has no caller to go to; the tiers have counted it.
                let _ = write.await;
            });
        }
    }
}
