//! A value, or that there is none, and until when that holds.

use std::{fmt, num::NonZero, sync::Arc, time::Duration};

use crate::{Expiry, Lifetime, Moment, Ttl};

/// A value on its way into or out of a store, and until when it holds.
///
/// - It may say that there *is* no value (a negative entry, [`absent`](Self::absent)); that is no
///   value of any type, so it cannot be taken for one.
/// - [`expiry`](Self::expiry) is hard: nothing is served past it. Before it an entry may turn
///   [stale](Self::is_stale): good enough while a new one is being loaded, or when it cannot be.
/// - It may know when it was made and how long that took.
/// - It may have a [validator](Self::validator), which the next load can use to ask whether the
///   value is still current.
///
/// `Debug` shows neither the value nor the validator.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry<V> {
    value: Option<V>,
    // Entries are moved a few times on every hit, so each of these is one word.
    expiry: Stamp,
    fresh_until: Stamp,
    created: Stamp,
    load_time: LoadTime,
    validator: Option<Arc<Validator>>,
}

/// A number of microseconds. It is stored plus one, so that an `Option<Entry>`, as every hit
/// returns one, is no larger than an `Entry`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LoadTime(NonZero<u64>);

impl LoadTime {
    const ZERO: Self = Self(NonZero::<u64>::MIN);

    fn of(time: Duration) -> Self {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self(NonZero::<u64>::MIN.saturating_add(micros))
    }

    fn get(self) -> Duration {
        Duration::from_micros(self.0.get() - 1)
    }
}

/// A validator. An `Arc<str>` is two words, and an `Arc` of this is one.
#[derive(PartialEq, Eq)]
struct Validator(Arc<str>);

/// A moment, or none, in the order in which "none" comes last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp(Moment);

impl Stamp {
    const NONE: Self = Self(Moment::from_nanos(u64::MAX));

    /// The end of the line itself, 584 years on, gives way by a nanosecond.
    fn at(moment: Moment) -> Self {
        Self(moment.min(Moment::from_nanos(u64::MAX - 1)))
    }

    fn get(self) -> Option<Moment> {
        (self != Self::NONE).then_some(self.0)
    }
}

impl From<Expiry> for Stamp {
    fn from(expiry: Expiry) -> Self {
        match expiry {
            Expiry::Never => Self::NONE,
            Expiry::At(moment) => Self::at(moment),
        }
    }
}

impl From<Stamp> for Expiry {
    fn from(stamp: Stamp) -> Self {
        stamp.get().map_or(Self::Never, Self::At)
    }
}

impl Entry<()> {
    /// The length of the longest validator, in bytes: 1024.
    pub const MAX_VALIDATOR: usize = 1024;
}

impl<V> Entry<V> {
    /// A value that expires at `expiry`, and is fresh until then.
    pub fn new(value: V, expiry: Expiry) -> Self {
        Self::of(Some(value), expiry)
    }

    /// Creates the entry of a key that has no value, until `expiry`.
    pub fn absent(expiry: Expiry) -> Self {
        Self::of(None, expiry)
    }

    fn of(value: Option<V>, expiry: Expiry) -> Self {
        let expiry = expiry.into();
        Self {
            value,
            expiry,
            fresh_until: Stamp::NONE,
            created: Stamp::NONE,
            load_time: LoadTime::ZERO,
            validator: None,
        }
    }

    /// The same, stale from `moment` on: never later than it expires. What never expires is never
    /// stale.
    pub fn fresh_until(mut self, moment: Expiry) -> Self {
        self.fresh_until = if self.expiry == Stamp::NONE { Stamp::NONE } else { moment.into() };
        self
    }

    /// The same, with this lifetime instead of its own.
    pub fn with_lifetime(mut self, lifetime: Lifetime) -> Self {
        self.expiry = lifetime.expiry.into();
        self.fresh_until(lifetime.fresh_until)
    }

    /// The same, made at `moment`.
    pub fn created_at(mut self, moment: Moment) -> Self {
        self.created = Stamp::at(moment);
        self
    }

    /// The same, which took so long to load; it is kept in whole microseconds.
    pub fn loaded_in(mut self, time: Duration) -> Self {
        self.load_time = LoadTime::of(time);
        self
    }

    /// Sets the validator; `None` for no validator.
    ///
    /// A validator is an opaque string of the application, such as an `ETag` or the date of the
    /// last modification. One that is empty or longer than [`MAX_VALIDATOR`](Entry::MAX_VALIDATOR)
    /// bytes is dropped, and the entry has no validator then.
    ///
    /// # Examples
    ///
    /// ```
    /// use cache_core::{Entry, Expiry};
    ///
    /// let entry = Entry::new("Ada", Expiry::Never).with_validator(Some("\"33a64df5\"".into()));
    /// assert_eq!(entry.validator().map(|validator| &**validator), Some("\"33a64df5\""));
    /// ```
    pub fn with_validator(mut self, validator: Option<Arc<str>>) -> Self {
        let fits = |validator: &Arc<str>| (1..=Entry::MAX_VALIDATOR).contains(&validator.len());
        self.validator = validator.filter(fits).map(|validator| Arc::new(Validator(validator)));
        self
    }

    /// The value, `None` if the entry says that there is none.
    pub fn value(&self) -> Option<&V> {
        self.value.as_ref()
    }

    /// The value, by value.
    pub fn into_value(self) -> Option<V> {
        self.value
    }

    /// The same with the value made from this one's.
    pub fn map<W>(self, value: impl FnOnce(V) -> W) -> Entry<W> {
        let Self { value: old, expiry, fresh_until, created, load_time, validator } = self;
        Entry { value: old.map(value), expiry, fresh_until, created, load_time, validator }
    }

    /// Whether it says that there is no value.
    pub fn is_absent(&self) -> bool {
        self.value.is_none()
    }

    /// When it expires.
    pub fn expiry(&self) -> Expiry {
        self.expiry.into()
    }

    /// When it turns stale: when it expires, unless an earlier moment was given.
    pub fn stale_at(&self) -> Expiry {
        self.fresh_until.min(self.expiry).into()
    }

    /// Whether it turns stale before it expires.
    pub fn turns_stale(&self) -> bool {
        self.fresh_until != Stamp::NONE
    }

    /// When it was made, as far as is known.
    pub fn created(&self) -> Option<Moment> {
        self.created.get()
    }

    /// How long it took to load; zero if it was not loaded.
    pub fn load_time(&self) -> Duration {
        self.load_time.get()
    }

    /// Returns the validator, if the entry has one.
    pub fn validator(&self) -> Option<&Arc<str>> {
        self.validator.as_ref().map(|validator| &validator.0)
    }

    /// Whether it has expired.
    pub fn is_expired(&self, now: Moment) -> bool {
        self.expiry().is_past(now)
    }

    /// Whether it has turned stale.
    pub fn is_stale(&self, now: Moment) -> bool {
        self.stale_at().is_past(now)
    }

    /// Returns the remaining TTL.
    pub fn remaining(&self, now: Moment) -> Ttl {
        self.expiry().remaining(now)
    }

    /// The same value, expiring at `expiry` if that is earlier: a life is only ever shortened.
    pub fn expiring_by(mut self, expiry: Expiry) -> Self {
        self.expiry = self.expiry.min(expiry.into());
        self
    }
}

impl<V> fmt::Debug for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("absent", &self.is_absent())
            .field("expiry", &self.expiry())
            .field("stale_at", &self.stale_at())
            .finish_non_exhaustive()
    }
}
