//! Pauses after failed loads.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cache_core::{Key, Moment};

/// Until when keys whose load failed are left alone. It holds so many keys at most; beyond, a key is loaded again too early.
#[derive(Debug, Default)]
pub(crate) struct Pauses(Mutex<HashMap<Key, Moment>>);

const MOST: usize = 4096;

impl Pauses {
    fn pauses(&self) -> MutexGuard<'_, HashMap<Key, Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, key: &Key, now: Moment, pause: Duration) {
        let mut pauses = self.pauses();
        if pauses.len() >= MOST {
            pauses.retain(|_, until| *until > now);
        }
        if pauses.len() < MOST || pauses.contains_key(key) {
            pauses.insert(key.clone(), now.plus(pause));
        }
    }

    pub(crate) fn end(&self, key: &Key) {
        let mut pauses = self.pauses();
        if !pauses.is_empty() {
            pauses.remove(key);
        }
    }

    /// Whether the key is to be left alone. A pause that is over is forgotten.
    pub(crate) fn hold(&self, key: &Key, now: Moment) -> bool {
        let mut pauses = self.pauses();
        match pauses.get(key) {
            Some(until) if *until > now => true,
            Some(_) => {
                pauses.remove(key);
                false
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_time_or_by_success_and_there_is_a_bound() {
        let (pauses, second) = (Pauses::default(), Duration::from_secs(1));
        let (zero, key) = (Moment::from_nanos(0), Key::new("k").unwrap());
        pauses.begin(&key, zero, second);
        assert!(pauses.hold(&key, Moment::from_nanos(999_999_999)));
        assert!(!pauses.hold(&key, zero.plus(second)));
        pauses.begin(&key, zero, second);
        pauses.end(&key);
        assert!(!pauses.hold(&key, zero));
        for number in 0..2 * MOST {
            pauses.begin(&Key::new(&number).unwrap(), zero, second);
        }
        assert_eq!(pauses.pauses().len(), MOST);
        pauses.begin(&key, zero.plus(second), second);
        assert_eq!(pauses.pauses().len(), 1, "what is over makes room");
    }
}
