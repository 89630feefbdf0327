//! The journal of a tier: what it may hold wrongly, since a write of it failed or its outcome is not known.
//!
//! Nothing of that is read from the tier before it has been deleted there. A key leaves the journal when a write of it is
//! acknowledged that began after the failure was noted. What does not fit is not forgotten either: the whole tier is distrusted
//! then, and from its recovery on trusted with what was made after.
//!
//! Deletions by the journal and writes of the same key take turns, or a deletion that is on its way could remove a newer value
//! whose `set` has been acknowledged.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_core::{Entry, Key, Moment};
use tokio::{sync::Notify, time::Instant};

#[derive(Debug)]
pub(crate) struct Journal {
    /// Whether there is nothing to ask the lock for, as nearly always.
    clean: AtomicBool,
    state: Mutex<State>,
    pub(crate) capacity: usize,
    /// Wakes the writes that wait for a deletion.
    deleted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When each failure was noted, counted in notes and marks.
    keys: HashMap<Key, u64>,
    /// The memory of these keys.
    bytes: usize,
    /// The number of writes in flight, by key.
    writing: HashMap<Key, usize>,
    /// The keys that are being deleted by the journal.
    deleting: HashSet<Key>,
    now: u64,
    all: All,
    /// When the journal may be worked off again, unless it is being worked off.
    next_attempt: Option<Instant>,
    working: bool,
}

/// Whether the whole tier is distrusted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum All {
    #[default]
    Trusted,
    /// All of it, since this note.
    Distrusted(u64),
    /// What was made until this moment.
    Until { moment: Moment, noted: u64 },
}

/// A moment in the order of notes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Mark(u64);

/// How long the journal is left alone after an attempt that failed, while the tier answers otherwise.
const RETRY: Duration = Duration::from_millis(100);

/// The mean memory of a key, in bytes, up to which the journal holds as many keys as it may.
const BYTES_PER_KEY: usize = 256;

/// The memory that a key takes here. It depends on the bytes alone, so that an equal key gives it back.
fn memory(key: &Key) -> usize {
    size_of::<Key>() + key.as_bytes().len()
}

impl Journal {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { clean: AtomicBool::new(true), state: Mutex::default(), capacity, deleted: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything in the tier may be trusted.
    pub(crate) fn is_clean(&self) -> bool {
        self.clean.load(Ordering::Acquire)
    }

    /// Whether there is something to delete in the tier.
    pub(crate) fn has_work(&self) -> bool {
        !self.is_clean() && self.state().has_work()
    }

    /// How many keys are distrusted, one by one.
    pub(crate) fn len(&self) -> usize {
        self.state().keys.len()
    }

    /// To be drawn before a write begins.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.state().now)
    }

    /// A write of these keys failed.
    pub(crate) fn note<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
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
                state.all = All::Distrusted(now);
            }
            self.clean.store(false, Ordering::Release);
        }
    }

    /// A write of everything failed.
    pub(crate) fn note_all(&self) {
        let mut state = self.state();
        state.now += 1;
        state.all = All::Distrusted(state.now);
        self.clean.store(false, Ordering::Release);
    }

    /// Writes of these keys that began at the mark were acknowledged.
    pub(crate) fn acknowledge<'a>(&self, mark: Mark, keys: impl IntoIterator<Item = &'a Key>) {
        if self.is_clean() {
            return;
        }
        let mut state = self.state();
        for key in keys {
            if state.is_noted_by(key, mark) {
                state.keys.remove(key);
                state.bytes -= memory(key);
            }
        }
        self.settle(&mut state);
    }

    /// A removal of everything that began at the mark was acknowledged.
    pub(crate) fn acknowledge_all(&self, mark: Mark) {
        if self.is_clean() {
            return;
        }
        let mut state = self.state();
        state.keys.retain(|_, noted| *noted > mark.0);
        state.bytes = state.keys.keys().map(memory).sum();
        match state.all {
            All::Distrusted(noted) | All::Until { noted, .. } if noted <= mark.0 => state.all = All::Trusted,
            _ => {}
        }
        self.settle(&mut state);
    }

    fn settle(&self, state: &mut State) {
        // Under the lock, or it would hide what is noted meanwhile.
        self.clean.store(state.keys.is_empty() && state.all == All::Trusted, Ordering::Release);
    }

    /// Whether nothing that the tier has of this key may be read.
    pub(crate) fn distrusts(&self, key: &Key) -> bool {
        let state = self.state();
        matches!(state.all, All::Distrusted(_)) || state.keys.contains_key(key)
    }

    /// Whether this entry, which the tier gave, may be older than what was lost.
    pub(crate) fn rejects<V>(&self, entry: &Entry<V>) -> bool {
        if self.is_clean() {
            return false;
        }
        match self.state().all {
            All::Trusted => false,
            All::Distrusted(_) => true,
            All::Until { moment, .. } => entry.created().is_none_or(|created| created <= moment),
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
                    return WriteInFlight { journal: self, keys };
                }
            }
            deleted.await;
        }
    }

    /// The keys to delete, for one caller at a time; `None` if there are none, or another is at it, or it is too early.
    pub(crate) fn take_on(&self, at_once: bool) -> Option<Task<'_>> {
        let mut state = self.state();
        let early = !at_once && state.next_attempt.is_some_and(|next| Instant::now() < next);
        if state.working || early || !state.has_work() {
            return None;
        }
        state.working = true;
        Some(Task { journal: self, keys: state.keys.keys().cloned().collect(), mark: Mark(state.now), done: false })
    }
}

impl State {
    /// Whether a failure of the key was noted, and not after the mark.
    fn is_noted_by(&self, key: &Key, mark: Mark) -> bool {
        self.keys.get(key).is_some_and(|noted| *noted <= mark.0)
    }

    fn has_work(&self) -> bool {
        !self.keys.is_empty() || matches!(self.all, All::Distrusted(_))
    }
}

/// A write of these keys that is in flight, until it is dropped.
pub(crate) struct WriteInFlight<'a> {
    journal: &'a Journal,
    keys: &'a [Key],
}

impl Drop for WriteInFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.journal.state();
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

/// A deletion that is in flight, until it is dropped.
pub(crate) struct DeletionInFlight<'a> {
    journal: &'a Journal,
    /// The keys that are to be deleted.
    pub(crate) keys: Vec<Key>,
}

impl Drop for DeletionInFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.journal.state();
        for key in &self.keys {
            state.deleting.remove(key);
        }
        drop(state);
        self.journal.deleted.notify_waiters();
    }
}

/// The deletion of what is in the journal.
pub(crate) struct Task<'a> {
    journal: &'a Journal,
    pub(crate) keys: Vec<Key>,
    mark: Mark,
    done: bool,
}

impl<'a> Task<'a> {
    /// Registers the deletion of those keys that still need one: not those that a newer write has replaced, nor those of which
    /// a write is in flight, which ends in an acknowledgement or is noted again.
    pub(crate) fn begin_deletion(&self, keys: &[Key]) -> DeletionInFlight<'a> {
        let mut state = self.journal.state();
        let needs_one = |key: &&Key| state.is_noted_by(key, self.mark) && !state.writing.contains_key(*key);
        let keys: Vec<Key> = keys.iter().filter(needs_one).cloned().collect();
        state.deleting.extend(keys.iter().cloned());
        DeletionInFlight { journal: self.journal, keys }
    }

    /// These have been deleted.
    pub(crate) fn deleted(&self, keys: &[Key]) {
        self.journal.acknowledge(self.mark, keys);
    }

    /// All keys have been deleted. What is lost beside them was so before `now`.
    pub(crate) fn done(mut self, now: Moment) {
        self.done = true;
        let mut state = self.journal.state();
        if let All::Distrusted(noted) = state.all
            && noted <= self.mark.0
        {
            state.all = All::Until { moment: now, noted };
        }
        self.journal.settle(&mut state);
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        let mut state = self.journal.state();
        state.working = false;
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
        let journal = Journal::new(10);
        let before = journal.mark();
        journal.note([&key("k")]);
        assert!(journal.distrusts(&key("k")) && !journal.distrusts(&key("l")) && !journal.is_clean());
        journal.acknowledge(before, [&key("k")]);
        assert!(journal.distrusts(&key("k")), "what began before may have come before");
        journal.acknowledge(journal.mark(), [&key("k")]);
        assert!(journal.is_clean());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_worked_off_by_one_at_a_time_and_not_too_often() {
        let journal = Journal::new(10);
        assert!(journal.take_on(true).is_none());
        journal.note([&key("k")]);
        let task = journal.take_on(false).unwrap();
        assert!(journal.take_on(true).is_none());
        drop(task);
        assert!(journal.take_on(false).is_none());
        tokio::time::advance(RETRY).await;
        let task = journal.take_on(false).unwrap();
        journal.note([&key("k")]);
        task.deleted(&task.keys);
        task.done(Moment::from_nanos(0));
        assert!(journal.distrusts(&key("k")), "it was noted again meanwhile");
        let task = journal.take_on(false).unwrap();
        task.deleted(&task.keys);
        task.done(Moment::from_nanos(0));
        assert!(journal.is_clean());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_distrusted_with_all_that_was_made_before_the_recovery() {
        let journal = Journal::new(1);
        journal.note([&key("k"), &key("l")]);
        assert!(journal.distrusts(&key("any")));
        let made = |nanos| Entry::new((), Expiry::Never).created_at(Moment::from_nanos(nanos));
        assert!(journal.rejects(&made(100)));
        let task = journal.take_on(true).unwrap();
        task.deleted(&task.keys);
        task.done(Moment::from_nanos(10));
        assert!(!journal.distrusts(&key("any")) && !journal.is_clean());
        assert!(journal.rejects(&made(10)) && !journal.rejects(&made(11)));
        assert!(journal.rejects(&Entry::new((), Expiry::Never)), "nobody knows when it was made");
        journal.acknowledge_all(journal.mark());
        assert!(journal.is_clean() && !journal.rejects(&made(10)));
    }

    #[test]
    fn a_removal_of_everything_settles_what_was_noted_before_it_began() {
        let journal = Journal::new(10);
        journal.note([&key("k")]);
        let mark = journal.mark();
        journal.note([&key("l")]);
        journal.acknowledge_all(mark);
        assert!(!journal.distrusts(&key("k")) && journal.distrusts(&key("l")));
        let mark = journal.mark();
        journal.note_all();
        journal.acknowledge_all(mark);
        assert!(journal.distrusts(&key("any")));
        journal.acknowledge_all(journal.mark());
        assert!(journal.is_clean());
    }

    #[tokio::test]
    async fn what_is_lost_during_a_recovery_is_not_covered_by_it() {
        let journal = Journal::new(10);
        journal.note_all();
        let task = journal.take_on(true).unwrap();
        journal.note_all();
        task.done(Moment::from_nanos(7));
        assert!(journal.rejects(&Entry::new((), Expiry::Never).created_at(Moment::from_nanos(8))));
    }

    #[tokio::test]
    async fn a_deletion_and_writes_of_its_keys_take_turns() {
        let journal = Journal::new(10);
        let (k, l) = ([key("k")], [key("l")]);
        journal.note([&k[0], &l[0]]);
        let task = journal.take_on(true).unwrap();
        let first = journal.begin_write(&k).await;
        let deletion = task.begin_deletion(&task.keys);
        assert_eq!(deletion.keys, l, "a write of the other key is in flight");
        let mut second = pin!(journal.begin_write(&l));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(deletion);
        drop(second.await);
        drop(first);
        journal.acknowledge(journal.mark(), &k);
        assert_eq!(task.begin_deletion(&task.keys).keys, l, "a write that was acknowledged meanwhile is not undone");
        assert!(journal.state().writing.is_empty() && journal.state().deleting.is_empty());
    }

    #[test]
    fn long_keys_are_bounded_by_their_memory() {
        let journal = Journal::new(100);
        for number in 0..100 {
            journal.note([&key(&format!("{number:60000}"))]);
        }
        assert!(journal.distrusts(&key("any")) && journal.state().bytes <= 100 * BYTES_PER_KEY);
        journal.acknowledge_all(journal.mark());
        assert_eq!((journal.len(), journal.state().bytes), (0, 0));
        for number in 0..100 {
            journal.note([&key(&number.to_string())]);
        }
        assert!(!journal.distrusts(&key("any")), "short keys all fit");
        journal.acknowledge(journal.mark(), &[key("7")]);
        let held = journal.state().keys.keys().map(memory).sum::<usize>();
        assert_eq!((journal.len(), journal.state().bytes), (99, held));
    }

    #[test]
    fn a_key_that_fails_again_needs_no_more_room() {
        let journal = Journal::new(1);
        journal.note([&key("k")]);
        journal.note([&key("k")]);
        assert!(!journal.distrusts(&key("any")));
    }
}
