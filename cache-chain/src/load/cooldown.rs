//! Cooldowns after failed loads.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use cache_core::{Key, Moment};

use crate::{
    flight::Forget,
    util::{key_map::KeyMap, sync::lock},
};

/// Until when the keys of failed loads are not refreshed. A key beyond the capacity is refreshed
/// too early.
#[derive(Debug, Default)]
pub(super) struct Cooldowns(Mutex<KeyMap<Moment>>);

const CAPACITY: usize = 4096;

impl Cooldowns {
    fn until(&self) -> MutexGuard<'_, KeyMap<Moment>> {
        lock(&self.0)
    }

    pub(super) fn begin(&self, key: &Key, now: Moment, cooldown: Duration) {
        let mut until = self.until();
        if until.len() >= CAPACITY {
            until.retain(|_, end| *end > now);
        }
        if until.len() < CAPACITY || until.contains_key(key) {
            until.insert(key.clone(), now.plus(cooldown));
        }
    }

    pub(super) fn end(&self, key: &Key) {
        let mut until = self.until();
        if !until.is_empty() {
            until.remove(key);
        }
    }

    /// Returns `true` if the key is cooling down. Removes a cooldown that is over.
    pub(super) fn holds(&self, key: &Key, now: Moment) -> bool {
        let mut until = self.until();
        match until.get(key) {
            Some(end) if *end > now => true,
            Some(_) => {
                until.remove(key);
                false
            }
            None => false,
        }
    }
}

/// The data of a key that is written may be another.
impl Forget for Arc<Cooldowns> {
    fn forget(&self, key: &Key) {
        self.end(key);
    }

    fn forget_all(&self) {
        self.until().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cooldown_ends_by_time_or_by_success_and_there_is_a_bound() {
        let (cooldowns, second) = (Cooldowns::default(), Duration::from_secs(1));
        let (zero, key) = (Moment::from_nanos(0), Key::new("k").unwrap());
        cooldowns.begin(&key, zero, second);
        assert!(cooldowns.holds(&key, Moment::from_nanos(999_999_999)));
        assert!(!cooldowns.holds(&key, zero.plus(second)));
        cooldowns.begin(&key, zero, second);
        cooldowns.end(&key);
        assert!(!cooldowns.holds(&key, zero));
        for number in 0..2 * CAPACITY {
            cooldowns.begin(&Key::new(&number).unwrap(), zero, second);
        }
        assert_eq!(cooldowns.until().len(), CAPACITY);
        cooldowns.begin(&key, zero.plus(second), second);
        assert_eq!(cooldowns.until().len(), 1, "expired cooldowns make room");
    }
}
