//! A counter that costs little to increment.

use std::{
    cell::OnceCell,
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::sync::lock;

/// A counter that many threads increment at once without sharing a cache line.
///
/// The first threads that count, of those that are alive, have a shard each, and increment it without
/// a locked instruction, which would cost a hit some 6 ns. The others share the last shards. Only the
/// first increment of a thread takes a lock. A counter takes 1 KiB.
#[derive(Default)]
pub(crate) struct Counter([Shard; OWNED + SHARED]);

#[derive(Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

/// The numbers of shards that one thread has for itself, and of those that are shared.
const OWNED: usize = 12;
const SHARED: usize = 4;

/// The numbers of threads that have ended, and the first that no thread has had.
static NUMBERS: Mutex<(BTreeSet<usize>, usize)> = Mutex::new((BTreeSet::new(), 0));

/// The number of a thread. No other thread has it at the same time.
struct Number(usize);

impl Number {
    fn next() -> Self {
        let (free, next) = &mut *lock(&NUMBERS);
        // The lowest ones have shards of their own.
        Self(free.pop_first().unwrap_or_else(|| {
            *next += 1;
            *next - 1
        }))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        lock(&NUMBERS).0.insert(self.0);
    }
}

thread_local! {
    static NUMBER: OnceCell<Number> = const { OnceCell::new() };
}

impl Counter {
    #[inline]
    pub(crate) fn add(&self, count: usize) {
        // While the thread ends, it has no number.
        let number = NUMBER.try_with(|number| number.get_or_init(Number::next).0);
        self.add_as(number.unwrap_or(usize::MAX), count as u64);
    }

    #[inline]
    fn add_as(&self, number: usize, count: u64) {
        match self.0[..OWNED].get(number) {
            // The next thread that gets the number sees this, because both lock `NUMBERS`.
            Some(Shard(owned)) => owned.store(owned.load(Relaxed).wrapping_add(count), Relaxed),
            None => {
                self.0[OWNED + number % SHARED].0.fetch_add(count, Relaxed);
            }
        }
    }

    #[inline]
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// More threads than shards, and numbers that pass from one thread to the next.
    #[test]
    fn no_increment_is_lost() {
        let counter = Counter::default();
        for _ in 0..20 {
            thread::scope(|scope| {
                for _ in 0..2 * (OWNED + SHARED) {
                    scope.spawn(|| (0..1000).for_each(|_| counter.increment()));
                }
            });
        }
        assert_eq!(counter.sum(), 20 * 2 * 16 * 1000);
        assert!(NUMBER.with(|number| number.get_or_init(Number::next).0) < 200, "numbers are used again");
    }
}
