//! For tests: the contract suite of [`Store`], a reference store, a scripted one and the broken
//! ones that prove the suite.
//!
//! A backend proves itself with a [`Harness`] and one line:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use cache_core::{LocalStore, ManualClock, SharedClock, testkit::{Harness, MapStore, Reentrant, block_on}};
//!
//! #[derive(Default)]
//! struct MapHarness(ManualClock);
//!
//! impl Harness for MapHarness {
//!     type Store = MapStore<String>;
//!
//!     fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
//!         block_on(test)
//!     }
//!
//!     fn clock(&self) -> SharedClock {
//!         self.0.shared()
//!     }
//!
//!     async fn store(&self) -> Self::Store {
//!         MapStore::with_clock(self.0.shared())
//!     }
//!
//!     async fn pass(&self, time: Duration) {
//!         self.0.advance(time);
//!     }
//!
//!     fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
//!         Some(Arc::new(MapStore::with_clock(self.0.shared())))
//!     }
//! }
//!
//! cache_core::store_contract!(MapHarness::default());
//! # fn main() {}
//! ```
//!
//! It expands to one `#[test]` per clause, so a failure names the clause.

mod clauses;
mod executor;
mod explore;
mod map;
mod race;
mod reentrant;
mod sabotage;
mod scripted;
mod shared_map;
mod streams;

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

pub use self::{
    executor::{block_on, drop_after, join_all, yield_now},
    map::MapStore,
    reentrant::Reentrant,
    scripted::{Call, Gate, Operation, Phase, ScriptedStore},
    shared_map::SharedMap,
    streams::{StreamHarness, broken_stream_clauses},
};
// For the tests of this workspace: they may change with any release.
#[doc(hidden)]
pub use self::{
    explore::{Schedules, Turnstile},
    race::{Do, race},
    sabotage::{Broken, BrokenHarness},
    shared_map::StreamMistake,
};
use crate::{LocalStore, SharedClock, Store};

/// The parts of a test that depend on the backend.
///
/// The suite calls [`store`](Self::store) once per clause. It needs an empty store with room for
/// some hundred entries of up to 1 MiB, because its entries must not be evicted.
pub trait Harness: Send + Sync + 'static {
    /// The backend.
    type Store: Store<Value = String> + Clone + Debug;

    /// Runs a test to its end, for example on a runtime. [`block_on`] serves stores that need none.
    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T;

    /// The clock of the store.
    fn clock(&self) -> SharedClock;

    /// An empty store.
    fn store(&self) -> impl Future<Output = Self::Store> + Send;

    /// Lets time pass for the store: advances its manual clock, or sleeps.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Returns a value that the store has no room for, if there is one. For clause S5.
    fn oversized(&self) -> Option<String> {
        None
    }

    /// Replaces the value of the key by bytes that are no value, and returns `true`. Returns
    /// `false` if the store does not keep bytes. For clause S10.
    fn corrupt(&self, store: &Self::Store, key: &crate::Key) -> impl Future<Output = bool> + Send {
        let _ = (store, key);
        async { false }
    }

    /// An empty store of the same kind for values that call it when they are dropped: for clause
    /// S22. A store that is [local](Store::local) must have one.
    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        None
    }

    /// Credentials that must not show up anywhere: for clause S16.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the time after which the drop of the last handle counts as blocking, and a write as
    /// a deadlock. For clauses S15 and S22.
    fn drop_bound(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// The clauses of the contract; see [`Store`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the contract says what each is")]
pub enum Clause {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S8,
    S9,
    S10,
    S11,
    S12,
    S13,
    S14,
    S15,
    S16,
    S17,
    S18,
    S19,
    S20,
    S21,
    S22,
    S23,
    S24,
    S25,
}

impl Clause {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::S1,
        Self::S2,
        Self::S3,
        Self::S4,
        Self::S5,
        Self::S6,
        Self::S7,
        Self::S8,
        Self::S9,
        Self::S10,
        Self::S11,
        Self::S12,
        Self::S13,
        Self::S14,
        Self::S15,
        Self::S16,
        Self::S17,
        Self::S18,
        Self::S19,
        Self::S20,
        Self::S21,
        Self::S22,
        Self::S23,
        Self::S24,
        Self::S25,
    ];

    /// Tests a backend for this clause.
    ///
    /// # Errors
    ///
    /// Returns a description of the violation: the behaviour of the backend, its panic, or a
    /// timeout after a minute.
    pub fn check<H: Harness>(self, harness: H) -> Result<(), String> {
        let (report, verdict) = mpsc::channel();
        // A store that hangs must fail the clause and not the whole run, so the test has a thread
        // that can be given up.
        thread::spawn(move || {
            let tested = catch_unwind(AssertUnwindSafe(|| harness.run(clauses::check(self, &harness))));
            // Before the verdict: the process may end with that, and a server of the harness would
            // outlive it.
            drop(harness);
            let _ = report.send(tested.unwrap_or_else(|panic| Err(format!("it panicked: {}", message(&*panic)))));
        });
        verdict.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| Err("it hangs".to_owned()))
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Tests a backend for every clause of the contract of [`Store`]: one `#[test]` each. Takes an
/// expression that makes a [`Harness`](crate::testkit::Harness).
#[macro_export]
macro_rules! store_contract {
    ($harness:expr) => {
        $crate::store_contract! { @tests $harness;
            s1_a_miss_is_none S1,
            s2_an_expired_entry_is_a_miss S2,
            s3_get_tells_the_remaining_ttl S3,
            s4_set_replaces_value_and_ttl S4,
            s5_no_older_value_after_a_set S5,
            s6_retention_as_the_profile_says S6,
            s7_a_positive_ttl_stays_one S7,
            s8_del_is_idempotent_and_final S8,
            s9_distinct_keys_never_alias S9,
            s10_what_does_not_decode_is_an_error S10,
            s11_no_panic S11,
            s12_cancel_safety S12,
            s13_concurrent_calls S13,
            s14_a_clone_shares_state S14,
            s15_drop_does_not_block S15,
            s16_debug_and_errors_keep_secrets S16,
            s17_a_fill_with_a_void_ticket_is_refused S17,
            s18_a_set_with_a_void_ticket_leaves_the_key_absent S18,
            s19_of_claims_one_is_granted S19,
            s20_what_an_entry_says_comes_back S20,
            s21_a_lease_given_back_is_harmless S21,
            s22_values_are_dropped_without_a_lock S22,
            s23_take_returns_the_entry_once S23,
            s24_touch_changes_the_lifetime_alone S24,
            s25_only_the_current_version_is_confirmed S25,
        }
    };
    (@tests $harness:expr; $($name:ident $clause:ident,)*) => {$(
        #[test]
        fn $name() {
            if let Err(broken) = $crate::testkit::Clause::$clause.check($harness) {
                panic!("the store breaks clause {}: {broken}", stringify!($clause));
            }
        }
    )*};
}
