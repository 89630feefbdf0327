//! The Tokio runtime that a call runs in, and the one that a connection needs.

use cache_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

/// The runtime of this call.
pub(crate) fn current() -> Result<Handle> {
    Handle::try_current().map_err(|_| Error::new(ErrorKind::Closed, "store-redis works inside a Tokio runtime only"))
}

/// Whether the runtime has been shut down: it then drops at once what it is given.
pub(crate) fn has_ended(runtime: &Handle) -> bool {
    let task = runtime.spawn(std::future::pending::<()>());
    let dropped = task.is_finished();
    task.abort();
    dropped
}

/// A connection, or the call itself, has lost its runtime.
pub(crate) fn ended() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the Tokio runtime in which Redis was connected to has ended; call again in a runtime that is running",
    )
}
