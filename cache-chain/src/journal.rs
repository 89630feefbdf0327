//! The journal of a tier: what it may hold wrongly, since a write of it failed or its outcome is not known.
//!
//! Nothing of that is read from the tier before it has been deleted there. A key leaves the journal when a write of it is
//! acknowledged that began after the failure was noted. What does not fit is not forgotten either: the whole tier is distrusted
//! then, and from its recovery on trusted with what was made after.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_core::{Entry, Key, Moment};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Journal {
    /// Whether there is nothing to ask the lock for, as nearly always.
    clean: AtomicBool,
    state: Mutex<State>,
    pub(crate) capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    /// When each failure was noted, counted in notes and marks.
    keys: HashMap<Key, u64>,
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

impl Journal {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { clean: AtomicBool::new(true), state: Mutex::default(), capacity }
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
            if state.keys.len() >= self.capacity && !state.keys.contains_key(key) {
                state.all = All::Distrusted(now);
            } else {
                state.keys.insert(key.clone(), now);
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
            if state.keys.get(key).is_some_and(|noted| *noted <= mark.0) {
                state.keys.remove(key);
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
    fn has_work(&self) -> bool {
        !self.keys.is_empty() || matches!(self.all, All::Distrusted(_))
    }
}

/// The deletion of what is in the journal.
pub(crate) struct Task<'a> {
    journal: &'a Journal,
    pub(crate) keys: Vec<Key>,
    mark: Mark,
    done: bool,
}

impl Task<'_> {
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

    #[test]
    fn a_key_that_fails_again_needs_no_more_room() {
        let journal = Journal::new(1);
        journal.note([&key("k")]);
        journal.note([&key("k")]);
        assert!(!journal.distrusts(&key("any")));
    }
}
