//! `take` of a local store: a lease, a read, and the removal of what was read.

use super::{Arc, AssertUnwindSafe, AtomicU64, Fence, Key, SeqCst, Ticket, catch_unwind, explore, keys, thread};

/// The way in which a taker takes its lease.
type Lease = fn(&Fence, &Key) -> Ticket;

const TWICE: &str = "a value was taken twice, or lost";

/// The values that the cell holds: one from the start, and one that is written.
const OLD: u64 = 1;
const NEW: u64 = 2;

struct Cell {
    fence: Fence,
    value: AtomicU64,
}

impl Cell {
    fn take(&self, lease: Lease) -> u64 {
        let key = &keys()[0];
        loop {
            let ticket = lease(&self.fence, key);
            let found = self.value.load(SeqCst);
            if self.fence.void_if_current(key, ticket, || self.value.store(0, SeqCst)).is_some() {
                return found;
            }
        }
    }

    fn write(&self) -> u64 {
        self.fence.set(&keys()[0], Ticket::unconditional(), || self.value.store(NEW, SeqCst), || ());
        0
    }
}

/// A taker, and another one or a writer.
fn race(lease: Lease, writes: bool) {
    let cell = Arc::new(Cell { fence: Fence::with_stripes(1), value: AtomicU64::new(OLD) });
    let taker = Arc::clone(&cell);
    let taker = thread::spawn(move || taker.take(lease));
    let other = if writes { cell.write() } else { cell.take(lease) };
    let ends = [taker.join().unwrap(), other, cell.value.load(SeqCst)];
    let count = |value| ends.iter().filter(|end| **end == value).count();
    // The new value is taken or stays. The old value is taken, unless it was replaced.
    assert!(count(NEW) == usize::from(writes) && count(OLD) <= 1 && (writes || count(OLD) == 1), "{TWICE}: {ends:?}");
}

#[test]
fn of_two_takers_one_gets_the_value() {
    explore(|| race(Fence::lease_between_writes, false));
}

#[test]
fn a_taker_removes_nothing_that_it_does_not_get() {
    explore(|| race(Fence::lease_between_writes, true));
}

/// A write raises the version before it takes effect. A taker whose lease does not wait for that
/// reads what is being replaced, and its ticket is good.
#[test]
fn a_lease_amid_a_write_fails() {
    for writes in [false, true] {
        let caught = catch_unwind(AssertUnwindSafe(|| explore(move || race(Fence::lease, writes))));
        let panic = caught.expect_err("the fault was not found");
        let message = panic.downcast_ref::<String>().map_or("", String::as_str);
        assert!(message.contains(TWICE), "it failed otherwise: {message}");
    }
}
