//! Broken stores. Each breaks one clause, and the suite must find just that one: a suite that
//! cannot fail proves nothing.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use super::{Clause, Harness, MapStore, Reentrant, block_on, yield_now};
use crate::{
    Claim, Clock as _, Displaced, Entry, Error, ErrorKind, Expiry, Fence, Key, Lifetime, LocalStore, ManualClock,
    Moment, Profile, Result, SharedClock, Store, Ticket, Ttl, Write,
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

/// Makes stores that break this clause.
#[derive(Clone, Debug)]
pub struct BrokenHarness {
    clause: Clause,
    clock: ManualClock,
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

    /// Breaks S12: a write that was dropped stays in everybody's way.
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
        // Breaks S20: that there is no value becomes one, and all else is lost.
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

impl Store for Broken {
    type Value = String;

    fn profile(&self) -> Profile {
        Store::profile(&self.map).claims(true)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
        self.enter().await?;
        let key = &self.key(key);
        let found = self.found(key);
        let state = self.state();
        if state.corrupt.contains(key) {
            let error = Error::new(ErrorKind::Codec, "the stored bytes are no value");
            return if self.breaks(Clause::S10) { Ok(None) } else { Err(error) };
        }
        if self.breaks(Clause::S1) && !state.written.contains(key) {
            return Err(Error::new(ErrorKind::Backend, "no such key"));
        }
        let now = self.clock.now();
        match (found, state.last.get(key)) {
            (None, Some((last, _))) if self.breaks(Clause::S2) && last.is_expired(now) => Ok(Some(last.clone())),
            (Some(found), Some((_, ttl))) if self.breaks(Clause::S3) => {
                Ok(Some(with_expiry(found, Expiry::after(now, *ttl))))
            }
            (found, _) => Ok(found),
        }
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        self.enter().await?;
        self.map.lease(&self.key(key)).await
    }

    async fn claim(&self, key: &Key) -> Result<Claim> {
        self.claim_within(key, LEASE_TTL).await
    }

    async fn claim_within(&self, key: &Key, life: Duration) -> Result<Claim> {
        let ticket = self.lease(key).await?;
        let (key, now) = (self.key(key), self.clock.now());
        let mut state = self.state();
        let is_free = state.claimed.get(&key).is_none_or(|(_, end)| *end <= now);
        // Breaks S19: everybody may load.
        if is_free || self.breaks(Clause::S19) {
            state.claimed.insert(key, (ticket, now.plus(life.min(LEASE_TTL))));
            return Ok(Claim::granted(ticket));
        }
        Ok(Claim::refused(ticket))
    }

    async fn renew_claims(&self, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        let now = self.clock.now();
        for (key, ticket) in claims {
            let key = self.key(key);
            if let Some((held, end)) = self.state().claimed.get_mut(&key)
                && held == ticket
                && *end > now
            {
                *end = now.plus(life.min(LEASE_TTL));
            }
        }
        Ok(())
    }

    async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
        for (key, _) in leases {
            // Breaks S21: what is there is taken for the lease.
            if self.breaks(Clause::S21) {
                self.map.del(&self.key(key)).await?;
            }
        }
        Ok(())
    }

    async fn release(&self, key: &Key, _ticket: Ticket) -> Result<()> {
        self.state().claimed.remove(&self.key(key));
        Ok(())
    }

    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.enter().await?;
        let ticket = if self.breaks(Clause::S17) { Ticket::unconditional() } else { write.ticket };
        let key = self.key(&write.key);
        self.state().written.insert(key.clone());
        let filled = self.map.fill(Write { key: key.clone(), ticket, ..write }).await?;
        if filled {
            self.state().claimed.remove(&key);
        }
        Ok(filled)
    }

    async fn set(&self, write: Write<String>) -> Result<()> {
        self.install(write).await
    }

    async fn del(&self, key: &Key) -> Result<()> {
        self.enter().await?;
        let key = self.key(key);
        if let Some(entry) = self.found(&key) {
            let ticket = Ticket::unconditional();
            self.state().removed.push(Write::new(key.clone(), entry, ticket));
        }
        self.state().corrupt.remove(&key);
        self.state().claimed.remove(&key);
        self.map.del(&key).await
    }

    async fn take(&self, key: &Key) -> Result<Option<Entry<String>>> {
        self.enter().await?;
        let key = self.key(key);
        self.state().claimed.remove(&key);
        let is_corrupt = self.state().corrupt.remove(&key);
        // Breaks S23: the entry is read and then deleted.
        let taken = if self.breaks(Clause::S23) {
            let found = self.found(&key);
            yield_now().await;
            self.map.del(&key).await?;
            found
        } else {
            self.map.take(&key).await?
        };
        if is_corrupt { Err(Error::new(ErrorKind::Codec, "the stored bytes are no value")) } else { Ok(taken) }
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        self.enter().await?;
        let key = self.key(key);
        // Breaks S24: the entry is read and then written, whatever has become of it.
        if self.breaks(Clause::S24)
            && let Some(entry) = self.found(&key).filter(|entry| !entry.is_absent() && !entry.is_stale(now))
            && !lifetime.expiry.is_past(now)
        {
            yield_now().await;
            let entry = entry.with_lifetime(lifetime);
            return self.map.fill(Write::new(key, entry, Ticket::unconditional())).await;
        }
        let touched = self.map.touch(&key, lifetime, now).await?;
        if touched && let Some((entry, ttl)) = self.state().last.get_mut(&key) {
            *entry = entry.clone().with_lifetime(lifetime);
            *ttl = lifetime.expiry.remaining(now);
        }
        Ok(touched)
    }

    async fn clear(&self) -> Result<()> {
        self.enter().await?;
        self.state().claimed.clear();
        self.state().corrupt.clear();
        Store::clear(&self.map).await
    }

    async fn wait(&self) -> Result<()> {
        self.enter().await?;
        let removed = std::mem::take(&mut self.state().removed);
        for write in removed {
            // Breaks S8: the write was buffered and is applied after the removal.
            if self.breaks(Clause::S8) && self.found(&write.key).is_none() {
                self.map.set(write).await?;
            }
        }
        Ok(())
    }

    async fn set_many(&self, writes: Vec<Write<String>>) -> Vec<Result<()>> {
        if let Err(error) = self.enter().await {
            return writes.iter().map(|_| Err(error.clone())).collect();
        }
        let writes = writes.into_iter().map(|write| self.prepare(write)).collect();
        self.map.set_many(writes).await
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<String>>>> {
        if self.breaks(Clause::S11) {
            assert!(!keys.is_empty(), "no keys");
        }
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(self.get(key).await);
        }
        found
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

/// Breaks S22: drops what it replaces while the lock of the fence is held.
struct DropsUnderTheFence(MapStore<Reentrant>);

impl LocalStore for DropsUnderTheFence {
    type Value = Reentrant;

    fn profile(&self) -> Profile {
        LocalStore::profile(&self.0)
    }

    fn fence(&self) -> &Fence {
        self.0.fence()
    }

    fn get(&self, key: &Key) -> Option<Entry<Reentrant>> {
        LocalStore::get(&self.0, key)
    }

    fn insert(&self, key: &Key, entry: Entry<Reentrant>, weight: u64) -> Result<Displaced> {
        drop(self.0.insert(key, entry, weight)?);
        Ok(Displaced::nothing())
    }

    fn remove(&self, key: &Key) -> Result<Displaced> {
        self.0.remove(key)
    }

    fn clear(&self) -> Result<()> {
        LocalStore::clear(&self.0)
    }

    fn wait(&self) -> Result<()> {
        LocalStore::wait(&self.0)
    }
}

impl BrokenHarness {
    const DROP_BOUND: Duration = Duration::from_millis(300);

    /// A harness of stores that break `clause`.
    pub fn new(clause: Clause) -> Self {
        Self { clause, clock: ManualClock::new() }
    }
}

impl Harness for BrokenHarness {
    type Store = Broken;

    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }

    fn clock(&self) -> SharedClock {
        self.clock.shared()
    }

    async fn store(&self) -> Broken {
        Broken {
            clause: self.clause,
            map: MapStore::with_clock(self.clock.shared()),
            clock: self.clock.clone(),
            state: Arc::default(),
        }
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn oversized(&self) -> Option<String> {
        Some("v".repeat(ROOM + 1))
    }

    async fn corrupt(&self, store: &Broken, key: &Key) -> bool {
        store.state().corrupt.insert(key.clone())
    }

    fn reentrant(&self) -> Option<Arc<dyn LocalStore<Value = Reentrant>>> {
        let map = MapStore::with_clock(self.clock.shared());
        if self.clause == Clause::S22 { Some(Arc::new(DropsUnderTheFence(map))) } else { Some(Arc::new(map)) }
    }

    fn drop_bound(&self) -> Duration {
        // Short where it is to be exceeded, ample on a busy machine where it is not.
        if matches!(self.clause, Clause::S15 | Clause::S22) { Self::DROP_BOUND } else { Duration::from_secs(30) }
    }
}
