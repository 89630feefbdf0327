//! The query of a lookup.

use std::time::Duration;

use cache_core::{Entry, Moment};

use crate::tier::Places;

/// The purpose of a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Get,
    /// If the lookup finds nothing, a loader runs.
    Load,
}

/// The tiers that a lookup asks, and the entries that it accepts.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) purpose: Purpose,
    /// The tiers that are not read.
    pub(crate) unread: Places,
    /// The tiers that are not filled.
    pub(crate) unwritten: Places,
    /// An older entry is not accepted.
    pub(crate) max_age: Option<Duration>,
    /// `true` if the lookup must not have begun before.
    pub(crate) is_new: bool,
}

impl Query {
    /// Asks all tiers, and accepts entries of any age.
    pub(crate) fn new(purpose: Purpose) -> Self {
        Self { purpose, unread: Places::new(), unwritten: Places::new(), max_age: None, is_new: false }
    }

    /// Returns `true` if the tier of this place is not read or not written.
    pub(crate) fn leaves_out(&self, place: usize) -> bool {
        self.unread.contains(&place) || self.unwritten.contains(&place)
    }

    /// Returns `true` if lookups with this query may share their results with all other plain ones.
    pub(crate) fn is_plain(&self) -> bool {
        !self.is_new && self.unread.is_empty() && self.unwritten.is_empty() && self.max_age.is_none()
    }

    /// Returns `true` if the entry is young enough. An entry of unknown age is not, if the age is
    /// limited.
    pub(crate) fn accepts_age<V>(&self, entry: &Entry<V>, now: impl FnOnce() -> Moment) -> bool {
        self.max_age.is_none_or(|limit| entry.created().is_some_and(|created| now().since(created) <= limit))
    }
}
