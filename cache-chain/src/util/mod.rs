//! Helpers that know nothing of tiers.

pub(crate) mod counter;
pub(crate) mod deadline;
pub(crate) mod fault;
pub(crate) mod key_map;
pub(crate) mod panics;
pub(crate) mod park;
pub(crate) mod pending;
pub(crate) mod runtime;
pub(crate) mod sync;
pub(crate) mod throttle;
