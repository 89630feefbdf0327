//! Entries: a value or its absence, with a lifetime.

use std::{fmt, num::NonZero, sync::Arc, time::Duration};

use crate::{Expiry, Lifetime, Moment, Ttl, hash::hash_content};

/// A value, or the absence of a value, and its lifetime, as stores keep it.
///
/// - An entry without a value is a negative entry ([`absent`](Self::absent)): the key is known to
///   have no value. No value of the type stands for that.
/// - No entry is served after its [`expiry`](Self::expiry). Before that, an entry may turn
///   [stale](Self::is_stale): it is served only while a new value is loaded, or if the load fails.
/// - An entry may have a creation time and a load time.
/// - An entry may have a [validator](Self::validator), by which the next load can ask the origin
///   for a change of the value.
///
/// - An entry may have an [`ETag`], the version of the record that a store read it from, and a
///   [stamp](Self::stamp), which tells a chain when it was last known to be current. Neither counts
///   for equality.
///
/// `Debug` shows neither the value nor the validator.
#[derive(Clone)]
pub struct Entry<V> {
    value: Option<V>,
    // Each of these is one word, because an entry is moved a few times on every hit.
    expiry: Stamp,
    fresh_until: Stamp,
    created: Stamp,
    load_time: LoadTime,
    validator: Option<Arc<Validator>>,
    etag: Option<ETag>,
    stamp: u64,
}

/// The version of a record in a shared store. Each write of the record changes it, with a
/// probability of all but 2^-62.
///
/// It is a digest with a random seed of this process, so do not store it or send it to another
/// process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ETag(NonZero<u64>);

impl ETag {
    /// Computes the tag of a record from the bytes that change with each write, such as its head.
    /// `is_large` tells whether the store should compare the tag before it transfers the record.
    pub fn new(bytes: &[u8], is_large: bool) -> Self {
        // The second bit keeps the tag from being zero.
        let word = (hash_content(bytes) & !1) | 2 | u64::from(is_large);
        Self(NonZero::new(word).unwrap_or(NonZero::<u64>::MIN))
    }

    /// Returns `true` if the tag should be compared before the record is transferred.
    pub fn is_large(self) -> bool {
        self.0.get() & 1 == 1
    }
}

/// A number of microseconds, plus one, so that an `Option<Entry>` is no larger than an `Entry`.
/// Every hit returns one.
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

/// A validator. An `Arc` of this type is one word, and an `Arc<str>` is two.
#[derive(PartialEq, Eq)]
struct Validator(Arc<str>);

/// A moment or none. "None" is the greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp(Moment);

impl Stamp {
    const NONE: Self = Self(Moment::from_nanos(u64::MAX));

    /// Creates a stamp. The last possible moment, 584 years after the origin, becomes the moment
    /// before it, because its number stands for "none".
    fn at(moment: Moment) -> Self {
        Self(moment.min(Moment::from_nanos(u64::MAX - 1)))
    }

    #[inline]
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
    #[inline]
    fn from(stamp: Stamp) -> Self {
        stamp.get().map_or(Self::Never, Self::At)
    }
}

impl Entry<()> {
    /// The length of the longest validator, in bytes: 1024.
    pub const MAX_VALIDATOR: usize = 1024;
}

impl<V> Entry<V> {
    /// Creates the entry of a value that is fresh until it expires at `expiry`.
    pub fn new(value: V, expiry: Expiry) -> Self {
        Self::of(Some(value), expiry)
    }

    /// Creates the entry of a key that has no value. It expires at `expiry`.
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
            etag: None,
            stamp: 0,
        }
    }

    /// Sets when the entry turns stale, at the latest when it expires. An entry that does not
    /// expire does not turn stale.
    pub fn fresh_until(mut self, moment: Expiry) -> Self {
        self.fresh_until = if self.expiry == Stamp::NONE { Stamp::NONE } else { moment.into() };
        self
    }

    /// Replaces the lifetime.
    pub fn with_lifetime(mut self, lifetime: Lifetime) -> Self {
        self.expiry = lifetime.expiry.into();
        self.fresh_until(lifetime.fresh_until)
    }

    /// Sets when the value was created.
    pub fn created_at(mut self, moment: Moment) -> Self {
        self.created = Stamp::at(moment);
        self
    }

    /// Sets how long the load of the value took, in whole microseconds.
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

    /// Sets the version of the record that the entry was read from.
    pub fn with_etag(mut self, etag: Option<ETag>) -> Self {
        self.etag = etag;
        self
    }

    /// Sets the stamp.
    pub fn stamped(mut self, stamp: u64) -> Self {
        self.stamp = stamp;
        self
    }

    /// Returns the value, `None` if this is a negative entry.
    pub fn value(&self) -> Option<&V> {
        self.value.as_ref()
    }

    /// Returns the owned value, `None` if this is a negative entry.
    pub fn into_value(self) -> Option<V> {
        self.value
    }

    /// Takes the value out of the entry and leaves a negative entry. Unlike
    /// [`into_value`](Self::into_value), it does not move the rest of the entry.
    #[inline]
    pub fn take_value(&mut self) -> Option<V> {
        self.value.take()
    }

    /// Converts the value and keeps everything else.
    pub fn map<W>(self, value: impl FnOnce(V) -> W) -> Entry<W> {
        let Self { value: old, expiry, fresh_until, created, load_time, validator, etag, stamp } = self;
        Entry { value: old.map(value), expiry, fresh_until, created, load_time, validator, etag, stamp }
    }

    /// Returns `true` if this is a negative entry: the key has no value.
    pub fn is_absent(&self) -> bool {
        self.value.is_none()
    }

    /// Returns when the entry expires.
    #[inline]
    pub fn expiry(&self) -> Expiry {
        self.expiry.into()
    }

    /// Returns when the entry turns stale, which is when it expires unless an earlier moment was
    /// set.
    #[inline]
    pub fn stale_at(&self) -> Expiry {
        self.fresh_until.min(self.expiry).into()
    }

    /// Returns `true` if the entry turns stale before it expires.
    #[inline]
    pub fn turns_stale(&self) -> bool {
        self.fresh_until != Stamp::NONE
    }

    /// Returns when the value was created, `None` if that is not known.
    pub fn created(&self) -> Option<Moment> {
        self.created.get()
    }

    /// Returns how long the load of the value took, zero if the value was not loaded.
    pub fn load_time(&self) -> Duration {
        self.load_time.get()
    }

    /// Returns the validator, `None` if the entry has none.
    pub fn validator(&self) -> Option<&Arc<str>> {
        self.validator.as_ref().map(|validator| &validator.0)
    }

    /// Returns the version of the record that the entry was read from, `None` if it is not known.
    pub fn etag(&self) -> Option<ETag> {
        self.etag
    }

    /// Returns the stamp, 0 if the entry has none. A chain draws stamps in the order of time, and
    /// sets that of an entry to the last one that was drawn before a shared store was asked for it.
    /// A store in this process that drops the stamp makes each hit ask the shared store.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Returns `true` if the entry has expired at `now`.
    pub fn is_expired(&self, now: Moment) -> bool {
        self.expiry().is_past(now)
    }

    /// Returns `true` if the entry is stale at `now`.
    pub fn is_stale(&self, now: Moment) -> bool {
        self.stale_at().is_past(now)
    }

    /// Returns the remaining TTL at `now`.
    pub fn remaining(&self, now: Moment) -> Ttl {
        self.expiry().remaining(now)
    }

    /// Limits the expiry: the entry expires at `expiry`, unless it expires earlier anyway.
    pub fn expiring_by(mut self, expiry: Expiry) -> Self {
        self.expiry = self.expiry.min(expiry.into());
        self
    }
}

impl<V: PartialEq> PartialEq for Entry<V> {
    fn eq(&self, other: &Self) -> bool {
        let Self { value, expiry, fresh_until, created, load_time, validator, etag: _, stamp: _ } = self;
        (value, expiry, fresh_until, created, load_time, validator)
            == (&other.value, &other.expiry, &other.fresh_until, &other.created, &other.load_time, &other.validator)
    }
}

impl<V: Eq> Eq for Entry<V> {}

impl<V> fmt::Debug for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("absent", &self.is_absent())
            .field("expiry", &self.expiry())
            .field("stale_at", &self.stale_at())
            .finish_non_exhaustive()
    }
}
