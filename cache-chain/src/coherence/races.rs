//! The stamps under shuttle: hits, fills and the stream of changes on threads of their own. Each may
//! be suspended between any two accesses, while the clock goes on.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use cache_core::Key;
use shuttle::{check_random, thread};

use super::{
    stamps::{Draws, Stamps},
    sync::{AtomicU64, Mutex, Ordering::SeqCst, lock},
};
use crate::util::fault::{Fault, INJECTED};

const WINDOW: u64 = 10;

/// A server with one key, whose value is the number of the last change.
struct World {
    stamps: Stamps,
    key: Key,
    clock: AtomicU64,
    value: AtomicU64,
    /// When the first value was replaced.
    replaced: AtomicU64,
    /// The entry of the first tier: the value and its stamp.
    row: Mutex<Option<(u64, u64)>>,
}

impl World {
    fn new() -> Arc<Self> {
        let stamps = Stamps::new(Draws::new(1), 1, Duration::from_nanos(WINDOW), Duration::ZERO);
        stamps.begin("tracking");
        let key = Key::new("k").unwrap();
        let (clock, value, replaced) = (AtomicU64::new(1), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let world = Self { stamps, key, clock, value, replaced, row: Mutex::new(None) };
        world.stamps.prove(Instant::now(), 1);
        Arc::new(world)
    }

    /// Reads the value from the server and stores it in the first tier.
    fn fill(&self) {
        let stamp = self.stamps.draw(&self.key);
        let value = self.value.load(SeqCst);
        *lock(&self.row) = Some((value, stamp.number()));
    }

    /// Another client changes the value. The stream announces it, time passes, and the stream proves
    /// that it is alive.
    fn change(&self) {
        self.replaced.store(self.clock.load(SeqCst), SeqCst);
        self.value.store(1, SeqCst);
        self.stamps.change(&self.key, || lock(&self.row).is_some());
        let now = self.clock.fetch_add(2 * WINDOW, SeqCst) + 2 * WINDOW;
        self.stamps.prove(Instant::now(), now);
    }

    fn hit(&self) {
        let Some((value, stamp)) = *lock(&self.row) else { return };
        let mut read_at = None;
        let is_current = self.stamps.is_current(&self.key, stamp, || {
            let now = self.clock.load(SeqCst);
            read_at = Some(now);
            now
        });
        if is_current && value == 0 {
            let ago = read_at.unwrap_or(0).saturating_sub(self.replaced.load(SeqCst));
            assert!(ago <= WINDOW, "served {ago} after its end");
        }
    }
}

fn run() {
    let world = World::new();
    let on_thread = |work: fn(&World)| {
        let world = Arc::clone(&world);
        thread::spawn(move || work(&world))
    };
    let threads = [on_thread(World::fill), on_thread(World::change), on_thread(World::hit), on_thread(World::hit)];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // Whatever the order was: the first value is not served any more.
    world.hit();
}

const EXECUTIONS: usize = 10_000;

#[test]
fn g2_holds_however_hits_and_fills_race_with_the_stream() {
    check_random(run, EXECUTIONS);
}

#[test]
fn every_order_that_is_reversed_is_missed() {
    for fault in [Fault::ChangesReadFirst, Fault::HeldBeforePending] {
        let found = catch_unwind(AssertUnwindSafe(|| {
            let with_fault = move || {
                INJECTED.set(Some(fault));
                run();
            };
            check_random(with_fault, 20 * EXECUTIONS);
        }));
        INJECTED.set(None);
        assert!(found.is_err(), "{fault:?}");
    }
}
