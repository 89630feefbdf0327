//! The primitives that the model checker replaces.

#[cfg(all(test, shuttle))]
pub(super) use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
