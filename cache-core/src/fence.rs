//! The fence, which refuses a late fill of a key that was written meanwhile.

use std::{fmt, sync::PoisonError};

use crate::{
    Key,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

#[cfg(all(test, any(loom, shuttle)))]
mod model;

/// The version of a key when a reader or a writer began its work;
/// [`Store::lease`](crate::Store::lease) returns it.
///
/// This is the lease of "Scaling Memcache at Facebook" (NSDI 2013, section 3.2.1), as a part of the
/// contract of every tier. A ticket is *void* after a `set`, a `del` or a `clear` of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(Option<u64>);

impl Ticket {
    /// Creates the ticket of this version of a key. For authors of backends.
    pub const fn at(version: u64) -> Self {
        Self(Some(version))
    }

    /// Creates a ticket that is never void. The last tier is written with it.
    pub const fn unconditional() -> Self {
        Self(None)
    }

    /// Returns the version of the key, `None` if the ticket is unconditional. For authors of
    /// backends.
    pub const fn version(self) -> Option<u64> {
        self.0
    }

    fn is_current(self, version: u64) -> bool {
        self.0.is_none_or(|drawn| drawn == version)
    }
}

/// Versions of keys, in stripes, for stores in this process.
///
/// `lease` reads the version of a stripe. `fill` installs only if the version is still that of the
/// ticket, under the lock of the stripe. `set`, `void` and `void_all` raise the version under the
/// same lock. Keys that share a stripe may void each other's tickets, which costs one more read of
/// the tier below and never yields a wrong value. A hit does not use the fence.
///
/// The closures run under the lock of the stripe. They must not block, and must not run code of the
/// application, such as the `Clone` or `Drop` of a value. The fence returns their results, which
/// are dropped after the lock.
///
/// The fence is model-checked by shuttle and loom (`cargo xtask model`), together with faulty
/// variants that the checkers must reject.
pub struct Fence {
    stripes: Box<[Stripe]>,
}

#[derive(Default)]
struct Stripe {
    version: AtomicU64,
    lock: Mutex<()>,
}

impl Stripe {
    fn lock(&self) -> MutexGuard<'_, ()> {
        // A panic in a closure leaves the version consistent: it is raised before the closure runs.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        ticket.is_current(self.version.load(Ordering::Acquire))
    }

    /// Voids all tickets, and returns the version for which they were valid. The lock must be held.
    fn raise(&self) -> u64 {
        self.version.fetch_add(1, Ordering::AcqRel)
    }
}

impl Fence {
    /// The default number of stripes, which take 64 KiB. With 10,000 writes per second and reads of
    /// 1 ms in the tiers below, 0.24 % of the fills are refused because of a write of another key.
    pub const STRIPES: usize = 4096;

    /// Creates a fence of [`Fence::STRIPES`] stripes.
    pub fn new() -> Self {
        Self::with_stripes(Self::STRIPES)
    }

    /// Creates a fence of `stripes` stripes, rounded up to a power of two.
    pub fn with_stripes(stripes: usize) -> Self {
        Self { stripes: (0..stripes.next_power_of_two()).map(|_| Stripe::default()).collect() }
    }

    fn stripe(&self, key: &Key) -> &Stripe {
        &self.stripes[self.stripe_of(key)]
    }

    /// Returns a ticket for `key`. Take it *before* you read or write the tiers below.
    pub fn lease(&self, key: &Key) -> Ticket {
        Ticket::at(self.stripe(key).version.load(Ordering::Acquire))
    }

    /// As [`lease`](Self::lease), but waits for a write of the stripe that is in progress.
    ///
    /// A write raises the version before it takes effect. With an ordinary lease, which does not
    /// wait, a reader may find the entry that is being replaced and hold a valid ticket. For a fill
    /// this is correct, because the reader has read below. For the removal of the entry that was
    /// read here it is not.
    pub(crate) fn lease_between_writes(&self, key: &Key) -> Ticket {
        let stripe = self.stripe(key);
        let _locked = stripe.lock();
        Ticket::at(stripe.version.load(Ordering::Acquire))
    }

    /// Runs `install` and returns its result, unless the ticket is void; then returns `None`.
    pub fn fill<T>(&self, key: &Key, ticket: Ticket, install: impl FnOnce() -> T) -> Option<T> {
        let stripe = self.stripe(key);
        let _locked = stripe.lock();
        // Not `bool::then`: a refused closure, and the entry in it, must be dropped after the lock.
        if stripe.is_current(ticket) { Some(install()) } else { None }
    }

    /// Voids all tickets of `key`, then runs `install`, or `remove` if the ticket was already void.
    pub fn set<T>(&self, key: &Key, ticket: Ticket, install: impl FnOnce() -> T, remove: impl FnOnce() -> T) -> T {
        let stripe = self.stripe(key);
        let _locked = stripe.lock();
        let current = stripe.is_current(ticket);
        stripe.raise();
        if current { install() } else { remove() }
    }

    /// Returns the number of the stripe that guards `key`.
    pub(crate) fn stripe_of(&self, key: &Key) -> usize {
        // The remainder of a power of two takes the low bits, so the truncation on 32-bit targets
        // is harmless.
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits are used")]
        let low = key.fingerprint().0 as usize;
        low & (self.stripes.len() - 1)
    }

    /// As [`set`](Self::set) for several keys of one stripe, which do not void each other's
    /// tickets. `apply` is given a function that tells whether a ticket was valid.
    pub(crate) fn set_together<T>(&self, stripe: usize, apply: impl FnOnce(&dyn Fn(Ticket) -> bool) -> T) -> T {
        let stripe = &self.stripes[stripe];
        let _locked = stripe.lock();
        let version = stripe.raise();
        apply(&|ticket| ticket.is_current(version))
    }

    /// Voids all tickets of `key`, then runs `remove`.
    pub fn void<T>(&self, key: &Key, remove: impl FnOnce() -> T) -> T {
        let stripe = self.stripe(key);
        let _locked = stripe.lock();
        stripe.raise();
        remove()
    }

    /// As [`void`](Self::void), unless the ticket is void; then runs nothing and returns `None`.
    pub fn void_if_current<T>(&self, key: &Key, ticket: Ticket, remove: impl FnOnce() -> T) -> Option<T> {
        let stripe = self.stripe(key);
        let _locked = stripe.lock();
        if !stripe.is_current(ticket) {
            return None;
        }
        stripe.raise();
        Some(remove())
    }

    /// Voids all tickets of all keys. Fills that are in progress are complete when this returns, so
    /// remove the entries *after* this.
    pub fn void_all(&self) {
        for stripe in &self.stripes {
            let _locked = stripe.lock();
            stripe.raise();
        }
    }
}

impl Default for Fence {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("stripes", &self.stripes.len()).finish()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_fill_is_refused_after_any_write() {
        let fence = Fence::new();
        let key = Key::new("k").unwrap();

        let ticket = fence.lease(&key);
        assert_eq!(fence.fill(&key, ticket, || 1), Some(1));
        assert_eq!(fence.fill(&key, ticket, || 2), Some(2), "a fill voids nobody");

        let ticket = fence.lease(&key);
        assert_eq!(fence.set(&key, Ticket::unconditional(), || "set", || "removed"), "set");
        assert_eq!(fence.fill(&key, ticket, || 3), None);

        let ticket = fence.lease(&key);
        fence.void(&key, || ());
        assert_eq!(fence.fill(&key, ticket, || 4), None);

        let ticket = fence.lease(&key);
        fence.void_all();
        assert_eq!(fence.fill(&key, ticket, || 5), None);

        assert_eq!(fence.void_if_current(&key, ticket, || 6), None);
        let ticket = fence.lease(&key);
        assert_eq!(fence.void_if_current(&key, ticket, || 7), Some(7));
        assert_eq!(fence.void_if_current(&key, ticket, || 8), None, "it voids its own ticket, too");
    }

    #[test]
    fn of_two_writers_the_second_leaves_the_key_absent() {
        let fence = Fence::new();
        let key = Key::new("k").unwrap();
        let (first, second) = (fence.lease(&key), fence.lease(&key));
        assert_eq!(fence.set(&key, first, || "set", || "removed"), "set");
        assert_eq!(fence.set(&key, second, || "set", || "removed"), "removed");
    }

    #[test]
    fn a_panicking_closure_leaves_the_fence_usable() {
        let fence = Fence::with_stripes(1);
        let key = Key::new("k").unwrap();
        let ticket = fence.lease(&key);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            fence.void(&key, || panic!("in the closure"));
        }));
        assert!(panicked.is_err());
        assert_eq!(fence.fill(&key, ticket, || ()), None, "the tickets are void all the same");
    }
}
