//! What is started is finished.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use cache_core::Result;
use tokio::runtime::Handle;

/// A write that runs to its end once it has been polled: dropped before, the rest of it goes on in a task of its own.
pub(crate) struct Completion {
    write: Option<Pin<Box<dyn Future<Output = Result<()>> + Send>>>,
    started: bool,
    runtime: Handle,
}

impl Completion {
    pub(crate) fn new(runtime: Handle, write: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        Self { write: Some(Box::pin(write)), started: false, runtime }
    }
}

impl Future for Completion {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.started = true;
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
        if let Some(write) = self.write.take()
            && self.started
        {
            self.runtime.spawn(write);
        }
    }
}
