//! Broken stores. Each breaks one clause, and the suite must find just that one: a suite that
//! cannot fail proves nothing.

mod harness;
mod store;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

pub use self::harness::BrokenHarness;
use super::{Clause, MapStore, yield_now};
use crate::{
    Clock as _, Entry, Error, ErrorKind, Expiry, Key, LocalStore, ManualClock, Moment, Result, Store as _, Ticket, Ttl,
    Write,
};

/// A store that breaks one clause of the contract and keeps the others.
pub struct Broken {
    clause: Clause,
    map: MapStore<String>,
    clock: ManualClock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    written: HashSet<Key>,
    last: HashMap<Key, (Entry<String>, Ttl)>,
    removed: Vec<Write<String>>,
    corrupt: HashSet<Key>,
    /// The tickets of the claims, and when they run out.
    claimed: HashMap<Key, (Ticket, Moment)>,
    slot: Option<Key>,
    busy: bool,
}

const ROOM: usize = 2 << 20;
const LEASE_TTL: Duration = Duration::from_secs(10);

impl Broken {
    fn breaks(&self, clause: Clause) -> bool {
        self.clause == clause
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, key: &Key) -> Option<Entry<String>> {
        LocalStore::get(&self.map, key)
    }

    /// Breaks S9: keys are cut.
    fn key(&self, key: &Key) -> Key {
        let length = if self.breaks(Clause::S9) { key.as_bytes().len().min(512) } else { key.as_bytes().len() };
        Key::new(&key.as_bytes()[..length]).expect("a cut key is a key")
    }

    /// Breaks S12: a dropped write blocks all later calls.
    async fn enter(&self) -> Result<()> {
        for _ in 0..1000 {
            if !self.state().busy {
                return Ok(());
            }
            yield_now().await;
        }
        Err(Error::new(ErrorKind::Timeout, "a dropped write blocks the store"))
    }

    /// The write as this store makes it, and remembers it.
    fn prepare(&self, write: Write<String>) -> Write<String> {
        let Write { key, entry, ticket } = write;
        let key = self.key(&key);
        let ttl = entry.remaining(self.clock.now());
        let decade = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        let mut expiry = entry.expiry();
        if self.breaks(Clause::S7) && ttl.as_duration().is_some_and(|ttl| ttl >= decade) {
            expiry = Expiry::Never;
        }
        if self.breaks(Clause::S4)
            && let Some(old) = self.found(&key)
        {
            expiry = old.expiry();
        }
        // Breaks S20: an absent value becomes an empty one, and the other properties are lost.
        let entry = if self.breaks(Clause::S20) {
            Entry::new(entry.into_value().unwrap_or_default(), expiry)
        } else if self.breaks(Clause::S4) || self.breaks(Clause::S7) {
            with_expiry(entry, expiry)
        } else {
            entry
        };
        let ticket = if self.breaks(Clause::S18) { Ticket::unconditional() } else { ticket };
        let mut state = self.state();
        state.written.insert(key.clone());
        state.corrupt.remove(&key);
        state.claimed.remove(&key);
        state.last.insert(key.clone(), (entry.clone(), ttl));
        Write::new(key, entry, ticket)
    }

    async fn install(&self, mut write: Write<String>) -> Result<()> {
        self.enter().await?;
        if self.breaks(Clause::S12) {
            self.state().busy = true;
            yield_now().await;
            self.state().busy = false;
        }
        if self.breaks(Clause::S13) {
            // One slot for all concurrent writers.
            self.state().slot = Some(write.key.clone());
            yield_now().await;
            write.key = self.state().slot.clone().unwrap_or(write.key);
        }
        let write = self.prepare(write);
        let forget = self.breaks(Clause::S6) && self.state().written.len().is_multiple_of(100);
        if write.entry.value().map_or(0, String::len) > ROOM || forget {
            // No room: the old entry must go as well.
            return if self.breaks(Clause::S5) { Ok(()) } else { self.map.del(&write.key).await };
        }
        self.map.set(write).await
    }
}

impl Clone for Broken {
    fn clone(&self) -> Self {
        let map = if self.breaks(Clause::S14) { MapStore::with_clock(self.clock.shared()) } else { self.map.clone() };
        Self { clause: self.clause, map, clock: self.clock.clone(), state: Arc::clone(&self.state) }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if self.breaks(Clause::S15) {
            // Waits for something that does not come.
            let (_never, done) = mpsc::channel::<()>();
            let _ = done.recv_timeout(BrokenHarness::DROP_BOUND * 4 / 3);
        }
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Broken");
        shown.field("clause", &self.clause);
        if self.breaks(Clause::S16) {
            let state = self.state();
            shown.field("values", &state.last.values().map(|(entry, _)| entry.value().cloned()).collect::<Vec<_>>());
        }
        shown.finish_non_exhaustive()
    }
}

/// The same value with another expiry.
fn with_expiry(entry: Entry<String>, expiry: Expiry) -> Entry<String> {
    let (stale_at, created, load_time) = (entry.stale_at(), entry.created(), entry.load_time());
    let validator = entry.validator().cloned();
    let made = match entry.into_value() {
        Some(value) => Entry::new(value, expiry),
        None => Entry::absent(expiry),
    };
    let made = made.fresh_until(stale_at).loaded_in(load_time).with_validator(validator);
    match created {
        Some(created) => made.created_at(created),
        None => made,
    }
}
