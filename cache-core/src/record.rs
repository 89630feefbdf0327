//! The content of a record.

use std::{fmt, sync::Arc};

use crate::{Entry, Moment, life::Life};

/// The content of a record: a value or its absence, a life and a validator.
///
/// `Debug` shows neither the value nor the validator.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record<V> {
    /// The value, `None` if the key has none.
    pub value: Option<V>,
    /// The life, by the clock of the store.
    pub life: Life,
    /// The [validator](Entry::validator), if the record has one. The record of a key without a
    /// value has none.
    pub validator: Option<Arc<str>>,
}

impl<V> Record<V> {
    /// Creates the record of a value, without a validator.
    pub const fn new(value: V, life: Life) -> Self {
        Self { value: Some(value), life, validator: None }
    }

    /// Creates the record of a key that has no value.
    pub const fn absent(life: Life) -> Self {
        Self { value: None, life, validator: None }
    }

    /// Sets the validator.
    pub fn with_validator(mut self, validator: Option<Arc<str>>) -> Self {
        self.validator = validator;
        self
    }

    /// Returns the entry, which was requested at `asked`. At that moment, the clock of the store
    /// showed `store_now` or an earlier time. The entry may have expired; see [`Life::entry`].
    pub fn into_entry(self, asked: Moment, store_now: u64) -> Entry<V> {
        self.life.entry(self.value, asked, store_now).with_validator(self.validator)
    }
}

impl<V> fmt::Debug for Record<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("absent", &self.value.is_none())
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// An opened record.
///
/// A store treats a variant that it does not know as a key without an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Opened<V> {
    /// The marker of a lease or a claim. The key has no entry.
    Lease,
    /// The record of an entry.
    Record(Record<V>),
}
