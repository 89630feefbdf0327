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
        let write = self.write.as_mut().expect("not polled after it was ready");
        let result = std::task::ready!(write.as_mut().poll(context));
        self.write = None;
        Poll::Ready(result)
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        // A panic in the write must not run it again.
        if let Some(write) = self.write.take()
            && self.started
            && !std::thread::panicking()
        {
            self.runtime.spawn(write);
        }
    }
}
