//! The thread on which is dropped what must not be dropped where it left the store.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Sender, channel},
    thread,
};

use cache_core::{Error, ErrorKind, Result};

/// A handle to the thread; the thread ends when the last handle is gone and everything has been dropped.
///
/// Stretto's processor evicts, and everything that inserts or removes may have to wait for the processor. If the `Drop`
/// of a value ran there and waited for the store or for somebody who uses it, all would stand still.
#[derive(Clone)]
pub(crate) struct Reaper(Sender<Box<dyn Send>>);

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Self> {
        let (sender, receiver) = channel::<Box<dyn Send>>();
        thread::Builder::new()
            .name("store-stretto".into())
            .spawn(move || {
                for remains in receiver {
                    // A value's `Drop` that panics is its own affair; the panic hook has reported it.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(remains)));
                }
            })
            .map_err(|error| Error::with_source(ErrorKind::Backend, "cannot start the store's thread", error))?;
        Ok(Self(sender))
    }

    /// Drops `remains`, soon and elsewhere. It neither waits nor fails.
    pub(crate) fn bury(&self, remains: impl Send + 'static) {
        // The thread outlives every handle, so there is always a receiver.
        let _ = self.0.send(Box::new(remains));
    }
}
