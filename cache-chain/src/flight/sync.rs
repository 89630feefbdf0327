//! The primitives that the model checker replaces.

#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(all(test, shuttle))]
pub(super) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
pub(super) use tokio::task::AbortHandle;

#[cfg(all(test, shuttle))]
pub(super) use super::tasks::{AbortHandle, spawn};
#[cfg(not(all(test, shuttle)))]
use crate::util::runtime::RuntimeHandle;

/// Spawns a task on the chain's runtime.
#[cfg(not(all(test, shuttle)))]
pub(super) fn spawn(runtime: &RuntimeHandle, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    runtime.spawn(task).abort_handle()
}

/// Locks the mutex, also after a panic of a thread that held it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
