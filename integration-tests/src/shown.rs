//! What a log may show.

use std::error::Error as _;

use cache_core::Error;

/// All that a log could show of an error.
pub fn shown(error: &Error) -> String {
    let mut shown = vec![format!("{error} {error:?} {error:#?}")];
    let mut source = error.source();
    while let Some(error) = source {
        shown.push(format!("{error} {error:?}"));
        source = error.source();
    }
    shown.join(" ")
}
