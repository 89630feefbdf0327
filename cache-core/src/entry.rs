//! A value and when it expires.

use std::fmt;

use crate::{Expiry, Moment, Ttl};

/// A value on its way into or out of a store, and when it expires.
///
/// `Debug` does not show the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry<V> {
    value: V,
    expiry: Expiry,
}

impl<V> Entry<V> {
    /// A value that expires at `expiry`.
    pub fn new(value: V, expiry: Expiry) -> Self {
        Self { value, expiry }
    }

    /// The value.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The value, by value.
    pub fn into_value(self) -> V {
        self.value
    }

    /// When it expires.
    pub fn expiry(&self) -> Expiry {
        self.expiry
    }

    /// Whether it has expired.
    pub fn is_expired(&self, now: Moment) -> bool {
        self.expiry.is_past(now)
    }

    /// What remains of its life.
    pub fn remaining(&self, now: Moment) -> Ttl {
        self.expiry.remaining(now)
    }

    /// The same value, expiring at `expiry` if that is earlier: a life is only ever shortened.
    pub fn expiring_by(mut self, expiry: Expiry) -> Self {
        self.expiry = self.expiry.min(expiry);
        self
    }
}

impl<V> fmt::Debug for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("expiry", &self.expiry).finish_non_exhaustive()
    }
}
