//! The primitives that the model checker replaces.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
pub(crate) use tokio::task::AbortHandle;

#[cfg(not(all(test, shuttle)))]
use crate::runtime::RuntimeHandle;

#[cfg(all(test, shuttle))]
pub(crate) use crate::flight::model::{AbortHandle, spawn};

/// Spawns a task on the chain's runtime.
#[cfg(not(all(test, shuttle)))]
pub(crate) fn spawn(runtime: &RuntimeHandle, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    runtime.spawn(task).abort_handle()
}

/// Locks, though somebody may have panicked with the lock held: nothing that it guards is left halfway then.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
