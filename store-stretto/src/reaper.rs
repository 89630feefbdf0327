//! The thread that drops rows which must not be dropped on the thread where they left the store.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Sender, channel},
    thread,
};

use cache_core::{Error, ErrorKind, Result};

/// A handle to the thread. The thread ends when the last handle is gone and everything has been
/// dropped.
///
/// Stretto evicts on its processor's thread, and every insertion or removal may have to wait for
/// the processor. If a value's `Drop` ran there and waited for the store or for one of its users,
/// both would deadlock.
#[derive(Clone)]
pub(crate) struct Reaper(Sender<Box<dyn Send>>);

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Self> {
        let (sender, receiver) = channel::<Box<dyn Send>>();
        thread::Builder::new()
            .name("store-stretto".into())
            .spawn(move || {
                for value in receiver {
                    // A panic of a value's `Drop` must not end the thread; the panic hook has
                    // reported it.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
                }
            })
            .map_err(|error| Error::with_source(ErrorKind::Backend, "the store's thread cannot be started", error))?;
        Ok(Self(sender))
    }

    /// Drops `value` soon, on the reaper's thread. Neither waits nor fails.
    pub(crate) fn defer_drop(&self, value: impl Send + 'static) {
        // The thread outlives every handle, so there is always a receiver.
        let _ = self.0.send(Box::new(value));
    }
}
