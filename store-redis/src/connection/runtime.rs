//! The Tokio runtime of a call, and the one that a connection needs.

use cache_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

/// Returns the runtime of this call.
pub(super) fn current() -> Result<Handle> {
    let outside = "store-redis works only inside a Tokio runtime; call it from a task or from `block_on`";
    Handle::try_current().map_err(|_| Error::new(ErrorKind::Closed, outside))
}

/// Returns `true` if the runtime has been shut down. It then drops new tasks at once, and its
/// timers panic.
pub(super) fn has_ended(runtime: &Handle) -> bool {
    let task = runtime.spawn(std::future::pending::<()>());
    let dropped = task.is_finished();
    task.abort();
    dropped
}

/// Returns the error of a call whose connection, or which itself, has lost its runtime.
pub(super) fn ended() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the Tokio runtime in which the connection to Redis was set up has ended; call again in a running runtime",
    )
}
