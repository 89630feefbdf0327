//! Faults that the model injects, to show that it finds them.

/// A step of the protocol that is left out.
#[cfg(all(test, shuttle))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
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
}

#[cfg(all(test, shuttle))]
std::thread_local! {
    pub(super) static INJECTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Whether the model injects this fault. Outside of the model it is the constant `false`.
#[cfg(all(test, shuttle))]
macro_rules! injected {
    ($fault:ident) => {
        // Shuttle runs all its threads on one thread of the system.
        $crate::flight::fault::INJECTED.get() == Some($crate::flight::fault::Fault::$fault)
    };
}
#[cfg(not(all(test, shuttle)))]
macro_rules! injected {
    ($fault:ident) => {
        false
    };
}
pub(super) use injected;
