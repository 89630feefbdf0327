//! Runs writes to their end in tasks of their own, also after their callers have left. Writes to
//! tiers in this process wait for nothing and need no task.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use cache_core::{Key, Result};
use tokio::task::JoinHandle;

use super::detached::{Detached, DetachedWrites};
use crate::util::{
    runtime::{RuntimeHandle, closed},
    sync::lock,
};

/// The runtime of a chain, and the writes that go on there after their callers have left.
pub(super) struct Completion {
    pub(super) runtime: RuntimeHandle,
    /// `true` if all tiers are local, so that a write ends at its first poll unless it waits for
    /// another one.
    ends_at_once: bool,
    pub(super) detached: Arc<DetachedWrites>,
}

impl Completion {
    pub(super) fn new(runtime: RuntimeHandle, ends_at_once: bool) -> Self {
        Self { runtime, ends_at_once, detached: Arc::default() }
    }

    /// Runs a write of these keys, whose keys and values take `bytes`, after the detached writes of
    /// the same keys. `delete` deletes keys from all tiers; it runs if later writes were refused.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it detaches the write, which goes on.
    pub(super) async fn run<D>(
        &self,
        keys: Arc<[Key]>,
        bytes: usize,
        mut write: Pin<Box<impl Future<Output = Result<()>> + Send + 'static>>,
        delete: impl FnOnce(Vec<Key>) -> D + Send + 'static,
    ) -> Result<()>
    where
        D: Future<Output = ()> + Send,
    {
        let predecessors = self.detached.predecessors(&keys)?;
        if self.ends_at_once
            && predecessors.is_empty()
            && let Poll::Ready(written) = write.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            return written;
        }
        let (caller, end) = self.attend(Some(Arc::clone(&keys)), bytes);
        let detached = Arc::clone(&self.detached);
        let task = self.runtime.spawn(async move {
            let written = match detached.wait_for(&keys, predecessors).await {
                Ok(()) => write.await,
                Err(error) => Err(error),
            };
            if let Some(mut detached) = end.take() {
                let outdated = detached.outdated_keys().await;
                if !outdated.is_empty() {
                    // Boxed, because it is rare and would enlarge the task of every write.
                    Box::pin(delete(outdated)).await;
                }
            }
            written
        });
        let written = joined(task).await;
        drop(caller);
        written
    }

    /// Returns `true` if a write of these keys need not wait for an earlier one.
    ///
    /// # Errors
    ///
    /// As [`DetachedWrites::predecessors`].
    pub(super) fn may_begin(&self, keys: &[Key]) -> Result<bool> {
        self.detached.predecessors(keys).map(|predecessors| predecessors.is_empty())
    }

    /// Runs a `clear`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it detaches the `clear`, which goes on.
    pub(super) async fn run_clear(&self, clear: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
        let (caller, end) = self.attend(None, 0);
        let task = self.runtime.spawn(async move {
            let cleared = clear.await;
            drop(end);
            cleared
        });
        let cleared = joined(task).await;
        drop(caller);
        cleared
    }

    fn attend(&self, keys: Option<Arc<[Key]>>, bytes: usize) -> (Caller, End) {
        let shared = Arc::new(Shared::default());
        (Caller { shared: Arc::clone(&shared), keys, bytes, detached: Arc::clone(&self.detached) }, End(shared))
    }
}

async fn joined(task: JoinHandle<Result<()>>) -> Result<()> {
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(closed()),
    }
}

/// The stage of a write, shared by its caller and its task.
#[derive(Default)]
struct Shared(Mutex<Stage>);

#[derive(Default)]
enum Stage {
    /// The caller waits.
    #[default]
    Attended,
    /// The caller has left.
    Detached(Detached),
    /// The task has ended.
    Ended,
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        lock(&self.0)
    }
}

/// The caller of a write. Dropped before the end of the write, it detaches the write.
struct Caller {
    shared: Arc<Shared>,
    /// `None` for a `clear`.
    keys: Option<Arc<[Key]>>,
    bytes: usize,
    detached: Arc<DetachedWrites>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut stage = self.shared.stage();
        if matches!(*stage, Stage::Attended) {
            *stage = Stage::Detached(match self.keys.take() {
                Some(keys) => self.detached.enter(keys, self.bytes),
                None => self.detached.enter_clear(),
            });
        }
    }
}

/// The end of a write. It is dropped with the task, as when the store panics or the runtime ends.
struct End(Arc<Shared>);

impl End {
    /// Ends the write. Returns its place in the queue if its caller has left.
    fn take(&self) -> Option<Detached> {
        match std::mem::replace(&mut *self.0.stage(), Stage::Ended) {
            Stage::Detached(detached) => Some(detached),
            Stage::Attended | Stage::Ended => None,
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, pin::pin};

    use tokio::runtime::Handle;

    use super::*;

    /// Otherwise a detached `clear` could delete what a later write has written.
    #[tokio::test(start_paused = true)]
    async fn a_write_that_could_end_at_once_waits_for_its_predecessors() {
        let completion = Completion::new(RuntimeHandle::new(Handle::current()), true);
        let write = || completion.run(Arc::from([Key::new("k").unwrap()]), 1, Box::pin(ready(Ok(()))), |_| ready(()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(write()).poll(&mut context).is_ready());
        let clear = completion.detached.enter_clear();
        let mut waiting = pin!(write());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(clear);
        waiting.await.unwrap();
    }
}
