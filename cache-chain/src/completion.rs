//! Writes run to their end, in tasks of their own, whether or not their callers stay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache_core::{Key, Result};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    detached::{Detached, DetachedWrites},
    runtime::{RuntimeHandle, closed},
};

/// The runtime that a chain works on, and the writes that go on there after their callers have left.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) runtime: RuntimeHandle,
    pub(crate) detached: Arc<DetachedWrites>,
}

impl Ground {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime: RuntimeHandle::new(runtime), detached: Arc::default() }
    }

    /// Has the future run in a task of its own, where the chain was built.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// Runs a write of these keys in a task of its own, after the detached writes of the same keys. `delete` removes keys from
    /// all tiers; it runs where later writes of the line were refused.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it detaches the write, which goes on.
    pub(crate) async fn complete<D>(
        &self,
        keys: Arc<[Key]>,
        write: impl Future<Output = Result<()>> + Send + 'static,
        delete: impl FnOnce(Vec<Key>) -> D + Send + 'static,
    ) -> Result<()>
    where
        D: Future<Output = ()> + Send,
    {
        let predecessors = self.detached.predecessors(&keys)?;
        let (caller, end) = self.attend(Some(Arc::clone(&keys)));
        let detached = Arc::clone(&self.detached);
        let task = self.runtime.spawn(async move {
            let written = match detached.wait_for(&keys, predecessors).await {
                Ok(()) => write.await,
                Err(error) => Err(error),
            };
            if let Some(mut detached) = end.take() {
                let outdated = detached.outdated_keys().await;
                if !outdated.is_empty() {
                    delete(outdated).await;
                }
            }
            written
        });
        let written = joined(task).await;
        drop(caller);
        written
    }

    /// Runs a `clear` in a task of its own.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it detaches the `clear`, which goes on.
    pub(crate) async fn complete_clear(&self, clear: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
        let (caller, end) = self.attend(None);
        let task = self.runtime.spawn(async move {
            let cleared = clear.await;
            drop(end);
            cleared
        });
        let cleared = joined(task).await;
        drop(caller);
        cleared
    }

    fn attend(&self, keys: Option<Arc<[Key]>>) -> (Caller, End) {
        let shared = Arc::new(Shared::default());
        (Caller { shared: Arc::clone(&shared), keys, detached: Arc::clone(&self.detached) }, End(shared))
    }
}

async fn joined(task: JoinHandle<Result<()>>) -> Result<()> {
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(closed()),
    }
}

/// The stage of a write, known to its caller and its task.
#[derive(Default)]
struct Shared(Mutex<Stage>);

#[derive(Default)]
enum Stage {
    /// The caller waits for it.
    #[default]
    Attended,
    /// The caller has left.
    Detached(Detached),
    /// Nothing of it will happen any more.
    Ended,
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller of a write. Dropped before the write has ended, it detaches the write.
struct Caller {
    shared: Arc<Shared>,
    /// `None` for a `clear`.
    keys: Option<Arc<[Key]>>,
    detached: Arc<DetachedWrites>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut stage = self.shared.stage();
        if matches!(*stage, Stage::Attended) {
            *stage = Stage::Detached(match self.keys.take() {
                Some(keys) => self.detached.enter(keys),
                None => self.detached.enter_clear(),
            });
        }
    }
}

/// The end of a write: reached, or its task was dropped, as when the store panics or the runtime ends.
struct End(Arc<Shared>);

impl End {
    /// Ends the write. Returns its place in the line if its caller has left.
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
