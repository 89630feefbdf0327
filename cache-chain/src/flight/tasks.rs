//! Tasks of shuttle, in place of those of tokio.

use std::sync::PoisonError;

use shuttle::{
    future as executor,
    sync::{Mutex, MutexGuard},
};

use crate::util::runtime::RuntimeHandle;

/// The tasks of one execution, which stand for a runtime.
#[derive(Default)]
struct Tasks {
    handles: Vec<executor::JoinHandle<()>>,
    have_ended: bool,
}

shuttle::lazy_static! {
    static ref TASKS: Mutex<Tasks> = Mutex::new(Tasks::default());
}

fn tasks() -> MutexGuard<'static, Tasks> {
    TASKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None` if the runtime had ended before the task was spawned.
pub(super) struct AbortHandle(Option<executor::AbortHandle>);

impl AbortHandle {
    pub(super) fn abort(&self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

/// Spawns a task. As tokio does, it drops the task at once if the runtime has ended.
pub(super) fn spawn(_: &RuntimeHandle, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    if tasks().have_ended {
        drop(task);
        return AbortHandle(None);
    }
    let handle = executor::spawn(task);
    let abort = handle.abort_handle();
    let have_ended = {
        let mut tasks = tasks();
        tasks.handles.push(handle);
        tasks.have_ended
    };
    if have_ended {
        abort.abort();
    }
    AbortHandle(Some(abort))
}

/// Ends the runtime.
pub(super) fn end_runtime() {
    let handles: Vec<_> = {
        let mut tasks = tasks();
        tasks.have_ended = true;
        tasks.handles.iter().map(executor::JoinHandle::abort_handle).collect()
    };
    handles.iter().for_each(executor::AbortHandle::abort);
}

/// Waits for all tasks, aborted or not.
pub(super) fn join_all() {
    let tasks = std::mem::take(&mut tasks().handles);
    for task in tasks {
        let _ = executor::block_on(task);
    }
}
