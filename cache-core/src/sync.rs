//! The primitives that the model checkers replace.

#[cfg(all(test, loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
#[cfg(all(test, shuttle, not(loom)))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
