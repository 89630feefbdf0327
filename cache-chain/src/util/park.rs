//! Blocking a thread for the work of a runtime that another thread must run.

use std::{
    future::ready,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use cache_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

/// How long a runtime of one thread may do nothing. Longer than the timeouts of this project's
/// stores, so that a task that blocks the runtime for a moment does no harm.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Blocks the thread until the call is done. Its tasks wait for another thread that runs the
/// runtime; if it does nothing for `patience`, which its own timers cannot tell, returns an error.
pub(crate) fn park_until_done<T>(
    runtime: &Handle,
    patience: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let _entered = runtime.enter();
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut context, mut call) = (Context::from_waker(&waker), pin!(call));
    // What needs no runtime is done at once.
    if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
        return result;
    }
    loop {
        // Done as soon as a thread runs the runtime.
        let mut turn = runtime.spawn(ready(()));
        let (until, mut has_turned) = (Instant::now() + patience, false);
        loop {
            if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
                turn.abort();
                return result;
            }
            has_turned = has_turned || Pin::new(&mut turn).poll(&mut context).is_ready();
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            std::thread::park_timeout(rest);
        }
        if !has_turned {
            turn.abort();
            let message = format!(
                "no thread runs the runtime of the chain, a current-thread one, for {patience:?}; build the chain in \
                 a multi-thread runtime, or let another thread be in `Runtime::block_on` during the call"
            );
            return Err(Error::new(ErrorKind::Timeout, message));
        }
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
