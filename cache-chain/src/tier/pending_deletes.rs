//! Keys that must be deleted from a tier because a write to it failed or has an unknown outcome.
//!
//! Such a key is not read from the tier until it has been deleted there. It leaves the list when it
//! is deleted, or when a write is acknowledged that began after the failure. Keys beyond the
//! capacity are not forgotten: nothing is read from the tier then until it has recovered, and after
//! that only entries that were created since.
//!
//! Deletions and writes of one key take turns. Otherwise a deletion in flight could remove a newer
//! value whose `set` has been acknowledged.

use std::{
    pin::pin,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_core::{Entry, Key, Moment};
use tokio::{sync::Notify, time::Instant};

use crate::util::{
    key_map::{KeyMap, KeySet},
    sync::lock,
};

#[derive(Debug)]
pub(crate) struct PendingDeletes {
    /// `true` if the list is empty, so that the lock is not needed.
    empty: AtomicBool,
    state: Mutex<State>,
    pub(crate) capacity: usize,
    /// Notified when a deletion has ended.
    deleted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the failure of each key.
    keys: KeyMap<u64>,
    /// The memory of these keys.
    bytes: usize,
    /// The number of writes in flight, by key.
    writing: KeyMap<usize>,
    /// The keys that are being deleted.
    deleting: KeySet,
    /// The number of the last failure.
    now: u64,
    all: All,
    /// The moment before which deletions are not tried again.
    next_attempt: Option<Instant>,
    /// `true` if a caller is deleting.
    is_deleting: bool,
}

/// The entries that may be read of keys that are not on the list.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum All {
    #[default]
    Everything,
    /// Nothing since this failure.
    Nothing(u64),
    /// Entries created after this moment, when the tier had recovered from this failure.
    CreatedAfter { moment: Moment, failure: u64 },
}

/// A moment in the order of the failures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Mark(u64);

/// The time between a failed attempt to delete and the next one.
const RETRY: Duration = Duration::from_millis(100);

/// The mean memory of a key, in bytes, up to which the list holds as many keys as its capacity.
const BYTES_PER_KEY: usize = 256;

/// The memory of a key on the list. It depends on the bytes alone, so that equal keys have the
/// same.
fn memory(key: &Key) -> usize {
    size_of::<Key>() + key.as_bytes().len()
}

impl PendingDeletes {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { empty: AtomicBool::new(true), state: Mutex::default(), capacity, deleted: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns `true` if everything in the tier may be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty.load(Ordering::Acquire)
    }

    /// Returns `true` if there is something to delete in the tier.
    pub(crate) fn has_work(&self) -> bool {
        !self.is_empty() && self.state().has_work()
    }

    /// The number of keys on the list.
    pub(crate) fn len(&self) -> usize {
        self.state().keys.len()
    }

    /// Returns a mark, to be drawn before a write begins.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.state().now)
    }

    /// Adds keys whose write failed.
    pub(crate) fn add<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        for key in keys {
            if let Some(noted) = state.keys.get_mut(key) {
                *noted = now;
            } else if state.keys.len() < self.capacity
                && state.bytes.saturating_add(memory(key)) <= self.capacity.saturating_mul(BYTES_PER_KEY)
            {
                state.bytes += memory(key);
                state.keys.insert(key.clone(), now);
            } else {
                state.all = All::Nothing(now);
            }
            self.empty.store(false, Ordering::Release);
        }
    }

    /// Adds everything: a `clear` failed.
    pub(crate) fn add_all(&self) {
        let mut state = self.state();
        state.now += 1;
        state.all = All::Nothing(state.now);
        self.empty.store(false, Ordering::Release);
    }

    /// Removes the keys of an acknowledged write that began at the mark, unless they failed again
    /// since.
    pub(crate) fn acknowledge<'a>(&self, mark: Mark, keys: impl IntoIterator<Item = &'a Key>) {
        if self.is_empty() {
            return;
        }
        let mut state = self.state();
        for key in keys {
            if state.failed_before(key, mark) {
                state.keys.remove(key);
                state.bytes -= memory(key);
            }
        }
        self.settle(&mut state);
    }

    /// Removes everything that failed before the mark, at which an acknowledged `clear` began.
    pub(crate) fn acknowledge_all(&self, mark: Mark) {
        if self.is_empty() {
            return;
        }
        let mut state = self.state();
        state.keys.retain(|_, noted| *noted > mark.0);
        state.bytes = state.keys.keys().map(memory).sum();
        match state.all {
            All::Nothing(noted) | All::CreatedAfter { failure: noted, .. } if noted <= mark.0 => {
                state.all = All::Everything;
            }
            _ => {}
        }
        self.settle(&mut state);
    }

    fn settle(&self, state: &mut State) {
        // Under the lock; otherwise it would hide a failure that is noted meanwhile.
        self.empty.store(state.keys.is_empty() && state.all == All::Everything, Ordering::Release);
    }

    /// Returns `true` if the key must not be read from the tier.
    pub(crate) fn awaits_delete(&self, key: &Key) -> bool {
        let state = self.state();
        matches!(state.all, All::Nothing(_)) || state.keys.contains_key(key)
    }

    /// Returns `true` if this entry from the tier must not be read, because it may be older than a
    /// failed write.
    pub(crate) fn rejects<V>(&self, entry: &Entry<V>) -> bool {
        if self.is_empty() {
            return false;
        }
        match self.state().all {
            All::Everything => false,
            All::Nothing(_) => true,
            All::CreatedAfter { moment, .. } => entry.created().is_none_or(|created| created <= moment),
        }
    }

    /// Registers a write of these keys, once no deletion of them is in flight.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, it leaves nothing behind.
    pub(crate) async fn begin_write<'a>(&'a self, keys: &'a [Key]) -> WriteInFlight<'a> {
        loop {
            let mut deleted = pin!(self.deleted.notified());
            // From here on it is woken, although it is not polled yet.
            deleted.as_mut().enable();
            {
                let mut state = self.state();
                if !keys.iter().any(|key| state.deleting.contains(key)) {
                    for key in keys {
                        *state.writing.entry(key.clone()).or_default() += 1;
                    }
                    return WriteInFlight { pending: self, keys };
                }
            }
            deleted.await;
        }
    }

    /// Returns `true` if [`start`](Self::start) would start now, for a call that is no probe.
    pub(crate) fn may_start(&self) -> bool {
        let state = self.state();
        !state.is_deleting && state.next_attempt.is_none_or(|next| Instant::now() >= next) && state.has_work()
    }

    /// Starts to delete the keys on the list. Returns `None` if there are none, if another caller
    /// is deleting or, unless `at_once`, if the last attempt has just failed.
    pub(crate) fn start(&self, at_once: bool) -> Option<Deletions<'_>> {
        let mut state = self.state();
        let early = !at_once && state.next_attempt.is_some_and(|next| Instant::now() < next);
        if state.is_deleting || early || !state.has_work() {
            return None;
        }
        state.is_deleting = true;
        Some(Deletions {
            pending: self,
            keys: state.keys.keys().cloned().collect(),
            mark: Mark(state.now),
            done: false,
        })
    }
}

impl State {
    /// Returns `true` if the key is on the list because of a failure before the mark.
    fn failed_before(&self, key: &Key, mark: Mark) -> bool {
        self.keys.get(key).is_some_and(|noted| *noted <= mark.0)
    }

    fn has_work(&self) -> bool {
        !self.keys.is_empty() || matches!(self.all, All::Nothing(_))
    }
}

/// A write in flight. It ends when this is dropped.
pub(crate) struct WriteInFlight<'a> {
    pending: &'a PendingDeletes,
    keys: &'a [Key],
}

impl Drop for WriteInFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.pending.state();
        for key in self.keys {
            if let Some(writes) = state.writing.get_mut(key) {
                *writes -= 1;
                if *writes == 0 {
                    state.writing.remove(key);
                }
            }
        }
    }
}

/// A deletion in flight. It ends when this is dropped.
pub(crate) struct DeletionInFlight<'a> {
    pending: &'a PendingDeletes,
    /// The keys to delete.
    pub(crate) keys: Vec<Key>,
}

impl Drop for DeletionInFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.pending.state();
        for key in &self.keys {
            state.deleting.remove(key);
        }
        drop(state);
        self.pending.deleted.notify_waiters();
    }
}

/// The deletion of all keys on the list, by one caller at a time.
pub(crate) struct Deletions<'a> {
    pending: &'a PendingDeletes,
    pub(crate) keys: Vec<Key>,
    mark: Mark,
    done: bool,
}

impl<'a> Deletions<'a> {
    /// Registers the deletion of those keys that still need one. Keys that were written since do
    /// not, nor do keys with a write in flight: it is either acknowledged or fails and adds its key
    /// again.
    pub(crate) fn begin_deletion(&self, keys: &[Key]) -> DeletionInFlight<'a> {
        let mut state = self.pending.state();
        let needs_one = |key: &&Key| state.failed_before(key, self.mark) && !state.writing.contains_key(*key);
        let keys: Vec<Key> = keys.iter().filter(needs_one).cloned().collect();
        state.deleting.extend(keys.iter().cloned());
        DeletionInFlight { pending: self.pending, keys }
    }

    /// Removes deleted keys from the list.
    pub(crate) fn deleted(&self, keys: &[Key]) {
        self.pending.acknowledge(self.mark, keys);
    }

    /// Ends the deletion after all keys were deleted, at `now`.
    pub(crate) fn done(mut self, now: Moment) {
        self.done = true;
        let mut state = self.pending.state();
        if let All::Nothing(noted) = state.all
            && noted <= self.mark.0
        {
            state.all = All::CreatedAfter { moment: now, failure: noted };
        }
        self.pending.settle(&mut state);
    }
}

impl Drop for Deletions<'_> {
    fn drop(&mut self) {
        let mut state = self.pending.state();
        state.is_deleting = false;
        state.next_attempt = (!self.done).then(|| Instant::now() + RETRY);
    }
}

#[cfg(test)]
mod tests {
    use cache_core::Expiry;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    fn a_key_leaves_by_a_write_that_began_after_its_failure() {
        let pending = PendingDeletes::new(10);
        let before = pending.mark();
        pending.add([&key("k")]);
        assert!(pending.awaits_delete(&key("k")) && !pending.awaits_delete(&key("l")) && !pending.is_empty());
        pending.acknowledge(before, [&key("k")]);
        assert!(pending.awaits_delete(&key("k")), "what began before may have come before");
        pending.acknowledge(pending.mark(), [&key("k")]);
        assert!(pending.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_worked_off_by_one_at_a_time_and_not_too_often() {
        let pending = PendingDeletes::new(10);
        assert!(pending.start(true).is_none());
        pending.add([&key("k")]);
        let deletions = pending.start(false).unwrap();
        assert!(pending.start(true).is_none());
        drop(deletions);
        assert!(pending.start(false).is_none());
        tokio::time::advance(RETRY).await;
        let deletions = pending.start(false).unwrap();
        pending.add([&key("k")]);
        deletions.deleted(&deletions.keys);
        deletions.done(Moment::from_nanos(0));
        assert!(pending.awaits_delete(&key("k")), "it was noted again meanwhile");
        let deletions = pending.start(false).unwrap();
        deletions.deleted(&deletions.keys);
        deletions.done(Moment::from_nanos(0));
        assert!(pending.is_empty());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_distrusted_with_all_that_was_made_before_the_recovery() {
        let pending = PendingDeletes::new(1);
        pending.add([&key("k"), &key("l")]);
        assert!(pending.awaits_delete(&key("any")));
        let made = |nanos| Entry::new((), Expiry::Never).created_at(Moment::from_nanos(nanos));
        assert!(pending.rejects(&made(100)));
        let deletions = pending.start(true).unwrap();
        deletions.deleted(&deletions.keys);
        deletions.done(Moment::from_nanos(10));
        assert!(!pending.awaits_delete(&key("any")) && !pending.is_empty());
        assert!(!pending.has_work(), "nothing is left to delete");
        assert!(pending.rejects(&made(10)) && !pending.rejects(&made(11)));
        assert!(pending.rejects(&Entry::new((), Expiry::Never)), "nobody knows when it was made");
        pending.acknowledge_all(pending.mark());
        assert!(pending.is_empty() && !pending.rejects(&made(10)));
    }

    #[test]
    fn a_removal_of_everything_settles_what_was_noted_before_it_began() {
        let pending = PendingDeletes::new(10);
        pending.add([&key("k")]);
        let mark = pending.mark();
        pending.add([&key("l")]);
        pending.acknowledge_all(mark);
        assert!(!pending.awaits_delete(&key("k")) && pending.awaits_delete(&key("l")));
        let mark = pending.mark();
        pending.add_all();
        pending.acknowledge_all(mark);
        assert!(pending.awaits_delete(&key("any")));
        pending.acknowledge_all(pending.mark());
        assert!(pending.is_empty());
    }

    #[tokio::test]
    async fn what_is_lost_during_a_recovery_is_not_covered_by_it() {
        let pending = PendingDeletes::new(10);
        pending.add_all();
        let deletions = pending.start(true).unwrap();
        pending.add_all();
        deletions.done(Moment::from_nanos(7));
        assert!(pending.rejects(&Entry::new((), Expiry::Never).created_at(Moment::from_nanos(8))));
    }

    #[tokio::test]
    async fn a_deletion_and_writes_of_its_keys_take_turns() {
        let pending = PendingDeletes::new(10);
        let (k, l) = ([key("k")], [key("l")]);
        pending.add([&k[0], &l[0]]);
        let deletions = pending.start(true).unwrap();
        let first = pending.begin_write(&k).await;
        let deletion = deletions.begin_deletion(&deletions.keys);
        assert_eq!(deletion.keys, l, "a write of the other key is in flight");
        let mut second = pin!(pending.begin_write(&l));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(deletion);
        drop(second.await);
        drop(first);
        pending.acknowledge(pending.mark(), &k);
        assert_eq!(
            deletions.begin_deletion(&deletions.keys).keys,
            l,
            "a write that was acknowledged meanwhile is not undone"
        );
        assert!(pending.state().writing.is_empty() && pending.state().deleting.is_empty());
    }

    #[test]
    fn long_keys_are_bounded_by_their_memory() {
        let pending = PendingDeletes::new(100);
        for number in 0..100 {
            pending.add([&key(&format!("{number:60000}"))]);
        }
        assert!(pending.awaits_delete(&key("any")) && pending.state().bytes <= 100 * BYTES_PER_KEY);
        pending.acknowledge_all(pending.mark());
        assert_eq!((pending.len(), pending.state().bytes), (0, 0));
        for number in 0..100 {
            pending.add([&key(&number.to_string())]);
        }
        assert!(!pending.awaits_delete(&key("any")), "short keys all fit");
        pending.acknowledge(pending.mark(), &[key("7")]);
        let held = pending.state().keys.keys().map(memory).sum::<usize>();
        assert_eq!((pending.len(), pending.state().bytes), (99, held));
    }

    #[test]
    fn a_key_that_fails_again_needs_no_more_room() {
        let pending = PendingDeletes::new(1);
        pending.add([&key("k")]);
        pending.add([&key("k")]);
        assert!(!pending.awaits_delete(&key("any")));
    }
}
