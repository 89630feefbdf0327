//! The Tokio runtime of a call.

use cache_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

/// Checks that sqlx can work in the runtime of this call.
///
/// # Errors
///
/// Returns an error of kind `Closed` outside a Tokio runtime and in one that has ended.
pub(crate) fn check() -> Result<()> {
    let outside = "store-sql works only inside a Tokio runtime; call it from a task or from `block_on`";
    let runtime = Handle::try_current().map_err(|_| closed(outside))?;
    // The timers of a runtime that has ended panic.
    if has_ended(&runtime) {
        return Err(closed("the Tokio runtime of this call has ended; call again in a running runtime"));
    }
    Ok(())
}

/// Returns `true` if the runtime has been shut down. It then drops new tasks at once.
fn has_ended(runtime: &Handle) -> bool {
    let task = runtime.spawn(std::future::pending::<()>());
    let dropped = task.is_finished();
    task.abort();
    dropped
}

fn closed(message: &'static str) -> Error {
    Error::new(ErrorKind::Closed, message)
}
