//! The fence under model checkers, and protocols that look right and are not.
//!
//! Two tiers: a lower cell, which is what a reader finds below, and an upper cell, which the
//! protocol guards. Each write of the lower cell, deletions included, gets the next number. The
//! promise (G1): once a write has returned, the upper cell holds nothing older than it; and when
//! all have returned, the upper cell holds what the lower one does, or nothing.
//!
//! Shuttle tries many random schedules. Loom tries all, and all that the memory model allows
//! besides.

mod take;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

#[cfg(loom)]
use loom::thread;
#[cfg(all(shuttle, not(loom)))]
use shuttle::thread;

use super::{Fence, Key, Ticket};
use crate::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

/// A guard of the upper cells, which the closures write.
trait Protocol: Send + Sync + 'static {
    fn lease(&self, key: &Key) -> Ticket;
    fn fill(&self, key: &Key, ticket: Ticket, install: impl FnOnce(), take_back: impl FnOnce());
    fn set(&self, key: &Key, ticket: Ticket, install: impl FnOnce(), remove: impl FnOnce());
    fn void(&self, key: &Key, remove: impl FnOnce());
    fn clear(&self, remove_all: impl FnOnce());

    /// Called before a writer or a deleter writes below.
    fn before_writing_below(&self, _key: &Key) {}

    /// Returns `true` if a reader takes its lease before it reads below.
    fn leases_first(&self) -> bool {
        true
    }

    /// Returns `true` if a deleter removes below before it removes above.
    fn deletes_bottom_up(&self) -> bool {
        true
    }
}

impl Protocol for Fence {
    fn lease(&self, key: &Key) -> Ticket {
        self.lease(key)
    }

    fn fill(&self, key: &Key, ticket: Ticket, install: impl FnOnce(), _take_back: impl FnOnce()) {
        self.fill(key, ticket, install);
    }

    fn set(&self, key: &Key, ticket: Ticket, install: impl FnOnce(), remove: impl FnOnce()) {
        self.set(key, ticket, install, remove);
    }

    fn void(&self, key: &Key, remove: impl FnOnce()) {
        self.void(key, remove);
    }

    fn clear(&self, remove_all: impl FnOnce()) {
        self.void_all();
        remove_all();
    }
}

/// The fence written out once more, with one fault.
struct Faulty {
    fault: Fault,
    stripes: [Stripe; 2],
}

#[derive(Default)]
struct Stripe {
    version: AtomicU64,
    lock: Mutex<()>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The control: without a fault it passes.
    None,
    /// Whoever comes last wins.
    NoGuard,
    /// The version is checked, then the value inserted, with no lock around the two.
    CheckThenInsert,
    /// No lock; the version is checked again after the insertion, and what was inserted in vain is
    /// removed.
    InsertThenRecheck,
    /// The tickets are voided before the tier below is written, and not after.
    RaiseOnlyBefore,
    /// The lock is released before the tickets are voided.
    RaiseAfterTheLock,
    /// A writer whose ticket is void installs its value all the same.
    SetThoughVoid,
    /// A writer voids no tickets.
    SetWithoutRaise,
    /// A deleter voids no tickets.
    VoidWithoutRaise,
    /// A flag "written since" instead of a version: the next lease lowers it.
    Flag,
    /// A version of one bit: two writes cancel each other out.
    OneBit,
    /// `clear` voids the tickets without the locks, so a fill that is being installed comes after
    /// the removal.
    ClearWithoutLock,
    /// `clear` removes, then voids.
    ClearThenVoid,
    /// A reader takes its lease after it has read below.
    LeaseAfterReading,
    /// A deleter removes above, then below.
    TopDown,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self { fault, stripes: <[Stripe; 2]>::default() }
    }

    fn stripe(&self, key: &Key) -> &Stripe {
        &self.stripes[side(key)]
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn raise(&self, stripe: &Stripe) {
        match self.fault {
            Fault::NoGuard | Fault::RaiseOnlyBefore => {}
            Fault::Flag => stripe.version.store(1, SeqCst),
            Fault::OneBit => {
                stripe.version.fetch_xor(1, SeqCst);
            }
            _ => {
                stripe.version.fetch_add(1, SeqCst);
            }
        }
    }

    fn is_current(&self, stripe: &Stripe, ticket: Ticket) -> bool {
        self.is(Fault::NoGuard) || ticket.version() == Some(stripe.version.load(SeqCst))
    }

    /// Runs the steps under the stripe's lock, unless to do without is the fault.
    fn locked(&self, stripe: &Stripe, steps: impl FnOnce()) {
        let lockless = [Fault::NoGuard, Fault::CheckThenInsert, Fault::InsertThenRecheck];
        let _locked = (!lockless.contains(&self.fault)).then(|| stripe.lock.lock().unwrap());
        steps();
    }
}

impl Protocol for Faulty {
    fn lease(&self, key: &Key) -> Ticket {
        let stripe = self.stripe(key);
        if self.is(Fault::Flag) {
            stripe.version.store(0, SeqCst);
            return Ticket::at(0);
        }
        Ticket::at(stripe.version.load(SeqCst))
    }

    fn fill(&self, key: &Key, ticket: Ticket, install: impl FnOnce(), take_back: impl FnOnce()) {
        let stripe = self.stripe(key);
        self.locked(stripe, || {
            if self.is_current(stripe, ticket) {
                install();
                if self.is(Fault::InsertThenRecheck) && !self.is_current(stripe, ticket) {
                    take_back();
                }
            }
        });
    }

    fn set(&self, key: &Key, ticket: Ticket, install: impl FnOnce(), remove: impl FnOnce()) {
        let stripe = self.stripe(key);
        self.locked(stripe, || {
            let current = self.is(Fault::SetThoughVoid) || self.is_current(stripe, ticket);
            if !self.is(Fault::SetWithoutRaise) {
                self.raise(stripe);
            }
            if current { install() } else { remove() }
        });
    }

    fn void(&self, key: &Key, remove: impl FnOnce()) {
        let stripe = self.stripe(key);
        let late = self.is(Fault::RaiseAfterTheLock);
        self.locked(stripe, || {
            if !late && !self.is(Fault::VoidWithoutRaise) {
                self.raise(stripe);
            }
            remove();
        });
        if late {
            self.raise(stripe);
        }
    }

    fn clear(&self, remove_all: impl FnOnce()) {
        let void_all = || {
            for stripe in &self.stripes {
                if self.is(Fault::ClearWithoutLock) {
                    self.raise(stripe);
                } else {
                    self.locked(stripe, || self.raise(stripe));
                }
            }
        };
        if self.is(Fault::ClearThenVoid) {
            remove_all();
            void_all();
        } else {
            void_all();
            remove_all();
        }
    }

    fn before_writing_below(&self, key: &Key) {
        if self.is(Fault::RaiseOnlyBefore) {
            self.stripe(key).version.fetch_add(1, SeqCst);
        }
    }

    fn leases_first(&self) -> bool {
        !self.is(Fault::LeaseAfterReading)
    }

    fn deletes_bottom_up(&self) -> bool {
        !self.is(Fault::TopDown)
    }
}

/// Two keys, one of each stripe.
fn keys() -> &'static [Key; 2] {
    static KEYS: OnceLock<[Key; 2]> = OnceLock::new();
    KEYS.get_or_init(|| {
        [0, 1].map(|wanted| {
            (0..1000).map(|n| Key::new(&n).unwrap()).find(|key| side(key) == wanted).expect("every other key is, or so")
        })
    })
}

/// The stripe of a key among two.
fn side(key: &Key) -> usize {
    usize::from(key.fingerprint().0 & 1 == 1)
}

/// The work of one thread.
#[derive(Clone, Copy, Debug)]
enum Act {
    Read(usize),
    Write(usize),
    Delete(usize),
    Clear,
}
use Act::{Clear, Delete, Read, Write};

struct World<P> {
    protocol: P,
    /// The number of the write whose value it holds; 0 if it holds none.
    upper: [AtomicU64; 2],
    /// Twice the number of the last write, plus one if that left a value.
    lower: [AtomicU64; 2],
}

const STALE: &str = "the upper tier holds an older value";

impl<P: Protocol> World<P> {
    /// In both lower cells is a value, in the upper ones none.
    fn new(protocol: P) -> Self {
        Self { protocol, upper: [0, 0].map(AtomicU64::new), lower: [2 + 1, 2 + 1].map(AtomicU64::new) }
    }

    fn act(&self, act: Act) {
        match act {
            Read(side) => self.read(side),
            Write(side) => self.write(side),
            Delete(side) => self.delete(side),
            Clear => self.clear(),
        }
    }

    fn read(&self, side: usize) {
        let key = &keys()[side];
        let mut ticket = self.protocol.lease(key);
        let found = self.lower[side].load(SeqCst);
        if !self.protocol.leases_first() {
            ticket = self.protocol.lease(key);
        }
        if found & 1 == 1 {
            self.protocol.fill(key, ticket, || self.install(side, found >> 1), || self.remove(side));
        }
    }

    fn write(&self, side: usize) {
        let key = &keys()[side];
        let ticket = self.protocol.lease(key);
        self.protocol.before_writing_below(key);
        let number = self.write_below(side, true);
        self.protocol.set(key, ticket, || self.install(side, number), || self.remove(side));
        self.nothing_older_than(side, number);
    }

    fn delete(&self, side: usize) {
        let key = &keys()[side];
        self.protocol.before_writing_below(key);
        let number = if self.protocol.deletes_bottom_up() {
            let number = self.write_below(side, false);
            self.protocol.void(key, || self.remove(side));
            number
        } else {
            self.protocol.void(key, || self.remove(side));
            self.write_below(side, false)
        };
        self.nothing_older_than(side, number);
    }

    fn clear(&self) {
        let numbers = [0, 1].map(|side| self.write_below(side, false));
        self.protocol.clear(|| [0, 1].into_iter().for_each(|side| self.remove(side)));
        for (side, number) in numbers.into_iter().enumerate() {
            self.nothing_older_than(side, number);
        }
    }

    fn install(&self, side: usize, number: u64) {
        self.upper[side].store(number, SeqCst);
    }

    fn remove(&self, side: usize) {
        self.upper[side].store(0, SeqCst);
    }

    /// The number of this write.
    fn write_below(&self, side: usize, present: bool) -> u64 {
        let next = |last: u64| ((last >> 1) + 1) << 1 | u64::from(present);
        let last = self.lower[side].fetch_update(SeqCst, SeqCst, |last| Some(next(last))).expect("it never refuses");
        (last >> 1) + 1
    }

    /// After a write has returned.
    fn nothing_older_than(&self, side: usize, number: u64) {
        let above = self.upper[side].load(SeqCst);
        assert!(above == 0 || above >= number, "{STALE}: {above} after write {number}");
    }

    /// After all have returned.
    fn as_below_or_nothing(&self, side: usize) {
        let (above, below) = (self.upper[side].load(SeqCst), self.lower[side].load(SeqCst));
        assert!(above == 0 || above << 1 | 1 == below, "{STALE}: {above} at rest, below is {}", below >> 1);
    }
}

/// Runs each act on a thread of its own, then looks at both cells.
fn run<P: Protocol>(protocol: P, acts: &[Act]) {
    let world = Arc::new(World::new(protocol));
    let (last, others) = acts.split_last().expect("somebody acts");
    let threads: Vec<_> = others
        .iter()
        .map(|&act| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.act(act))
        })
        .collect();
    world.act(*last);
    for thread in threads {
        thread.join().unwrap();
    }
    world.as_below_or_nothing(0);
    world.as_below_or_nothing(1);
}

/// Every schedule.
#[cfg(loom)]
fn explore(schedule: impl Fn() + Send + Sync + 'static) {
    loom::model(schedule);
}

/// Random schedules, and those with few but unlucky preemptions.
#[cfg(all(shuttle, not(loom)))]
fn explore(schedule: impl Fn() + Send + Sync + 'static) {
    let schedule = Arc::new(schedule);
    let again = Arc::clone(&schedule);
    shuttle::check_random(move || again(), 20_000);
    shuttle::check_pct(move || schedule(), 5_000, 3);
}

fn holds(acts: &'static [Act]) {
    explore(move || run(Fence::with_stripes(2), acts));
}

/// The mutants fail for their faults and not for what surrounds them.
#[test]
fn without_a_fault_the_mutant_passes() {
    explore(|| run(Faulty::new(Fault::None), &[Write(0), Delete(0), Read(0)]));
}

/// The checker finds the fault, and finds it by the promise that is broken.
fn is_caught(fault: Fault, acts: &'static [Act]) {
    let caught = catch_unwind(AssertUnwindSafe(|| explore(move || run(Faulty::new(fault), acts))));
    let panic = caught.expect_err("the fault was not found");
    let message = panic.downcast_ref::<String>().map_or("", String::as_str);
    assert!(message.contains(STALE), "{fault:?} failed otherwise: {message}");
}

macro_rules! proofs {
    ($($name:ident: $acts:expr;)*) => {$(
        #[test]
        fn $name() {
            holds(&$acts);
        }
    )*};
}

macro_rules! mutants {
    ($($name:ident: $fault:ident, $acts:expr;)*) => {$(
        #[test]
        fn $name() {
            is_caught(Fault::$fault, &$acts);
        }
    )*};
}

proofs! {
    g1_holds_for_two_readers_and_a_deleter: [Read(0), Read(0), Delete(0)];
    g1_holds_for_a_reader_and_two_deleters: [Read(0), Delete(0), Delete(0)];
    g1_holds_for_two_writers_and_a_reader: [Write(0), Write(0), Read(0)];
    g1_holds_for_a_writer_a_deleter_and_a_reader: [Write(0), Delete(0), Read(0)];
    g1_holds_for_a_reader_a_writer_and_a_clear: [Read(0), Write(1), Clear];
}

mutants! {
    without_a_guard_it_fails: NoGuard, [Read(0), Delete(0)];
    check_then_insert_fails: CheckThenInsert, [Read(0), Delete(0)];
    insert_then_recheck_fails: InsertThenRecheck, [Read(0), Delete(0)];
    raising_only_before_the_lower_write_fails: RaiseOnlyBefore, [Read(0), Delete(0)];
    raising_after_the_lock_fails: RaiseAfterTheLock, [Read(0), Delete(0)];
    a_set_that_installs_though_void_fails: SetThoughVoid, [Write(0), Write(0)];
    a_set_without_a_raise_fails: SetWithoutRaise, [Read(0), Write(0)];
    a_void_without_a_raise_fails: VoidWithoutRaise, [Read(0), Delete(0)];
    a_flag_instead_of_a_version_fails: Flag, [Read(0), Read(0), Delete(0)];
    a_version_of_one_bit_fails: OneBit, [Read(0), Delete(0), Delete(0)];
    a_clear_without_the_locks_fails: ClearWithoutLock, [Read(0), Clear];
    a_clear_that_removes_first_fails: ClearThenVoid, [Read(0), Clear];
    a_lease_after_the_read_fails: LeaseAfterReading, [Read(0), Delete(0)];
    deleting_top_down_fails: TopDown, [Read(0), Delete(0)];
}
