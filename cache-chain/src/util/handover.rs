//! Work that its caller runs, and that asks for a task.
//!
//! A lookup runs in the task of the caller that started it, because a task of its own costs more
//! than all else that a lookup does. But a caller may stop polling. So a lookup that begins something
//! for which others wait, such as the probe of a breaker, asks for a task of its own here. Whoever
//! polls the work grants that when the poll has ended.

use std::cell::Cell;

thread_local! {
    /// `true` if the work that this thread polls has asked for a task.
    static IS_REQUESTED: Cell<bool> = const { Cell::new(false) };
}

/// Asks for a task for the work that is being polled. Work that has one is not affected.
pub(crate) fn request() {
    IS_REQUESTED.set(true);
}

/// Polls work by this function. Returns what it returns, and whether the work has asked for a task.
pub(crate) fn watch<T>(poll: impl FnOnce() -> T) -> (T, bool) {
    // Work can poll other work.
    let outer = IS_REQUESTED.replace(false);
    let polled = poll();
    (polled, IS_REQUESTED.replace(outer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_of_the_work_that_is_polled() {
        let ((inner, outer), is_requested) = watch(|| {
            let before = watch(|| 1);
            request();
            (before, watch(request))
        });
        assert_eq!((inner, outer, is_requested), ((1, false), ((), true), true));
        assert_eq!(watch(|| watch(request)), (((), true), false));
    }
}
