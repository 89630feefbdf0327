//! The Tokio runtime that a call runs in.

use cache_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

/// Fails where sqlx cannot work.
pub(crate) fn check() -> Result<()> {
    let runtime = Handle::try_current().map_err(|_| closed("store-sql works inside a Tokio runtime only"))?;
    // Its timers panic.
    if has_ended(&runtime) {
        return Err(closed("the Tokio runtime of this call has ended; call in one that is running"));
    }
    Ok(())
}

/// Whether the runtime has been shut down: it then drops at once what it is given.
fn has_ended(runtime: &Handle) -> bool {
    let task = runtime.spawn(std::future::pending::<()>());
    let dropped = task.is_finished();
    task.abort();
    dropped
}

fn closed(message: &'static str) -> Error {
    Error::new(ErrorKind::Closed, message)
}
