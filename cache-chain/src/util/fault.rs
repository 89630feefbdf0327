//! Faults that the models inject, to show that they find them.

/// A step of the protocol that is left out.
#[cfg(all(test, shuttle))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The end of the work wakes no waiter.
    SilentEnd,
    /// A flight stays in its group when its work has ended.
    EndedListed,
    /// The last waiter leaves its flight in the group.
    LeftListed,
    /// A flight can be joined after its last waiter has left.
    AbandonedJoined,
    /// The last waiter removes a newer flight of the key from the group.
    OthersUnlisted,
    /// The last waiter does not abort the work.
    NotAborted,
    /// The last waiter aborts work that was left to the background.
    BackgroundAborted,
    /// A task that is dropped does not end its flight.
    DroppedSilently,
    /// The calls of a fenced store for one key do not exclude each other.
    UnsharedLocks,
    /// A `clear` of a fenced store does not wait for the calls in progress.
    HastyClear,
    /// A hit reads whether its key has changed before it reads until when entries are trusted.
    ChangesReadFirst,
    /// A notice looks for the entry of its key before it looks for entries under way.
    HeldBeforePending,
}

#[cfg(all(test, shuttle))]
std::thread_local! {
    pub(crate) static INJECTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Returns `true` if the model injects this fault. Outside of the model, it is the constant
/// `false`.
#[cfg(all(test, shuttle))]
macro_rules! injected {
    ($fault:ident) => {
        // Shuttle runs all its threads on one thread of the system.
        $crate::util::fault::INJECTED.get() == Some($crate::util::fault::Fault::$fault)
    };
}
#[cfg(not(all(test, shuttle)))]
macro_rules! injected {
    ($fault:ident) => {
        false
    };
}
pub(crate) use injected;
