//! A shared store that grants claims, and the processes that use it.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_chain::{CallOptions, ChainCache, Loaded, ManualClock, ReadThrough, ServeStale};
use cache_core::{
    Claim, Entry, Expiry, Key, LocalStore, Profile, Result, Store, Ticket, Write,
    testkit::{Gate, MapStore, block_on},
};

use super::{each, key};

const SECOND: Duration = Duration::from_secs(1);

/// A remote store that grants one claim per key, until it is released or a value has come.
#[derive(Clone, Default)]
pub(crate) struct Claiming {
    pub(crate) map: MapStore<String>,
    pub(crate) claims: Arc<Mutex<HashMap<Key, Ticket>>>,
    /// Another process stores this value just before the next claim.
    pub(crate) arriving: Arc<Mutex<Option<String>>>,
    /// Runs just before the next claim.
    on_claim: Arc<Mutex<Option<OnClaim>>>,
    pub(crate) renewals: Arc<Mutex<Vec<Key>>>,
}

type OnClaim = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Claiming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claiming").field("claimed", &self.claimed()).finish_non_exhaustive()
    }
}

impl Claiming {
    pub(crate) fn with_clock(clock: &ManualClock) -> Self {
        Self { map: MapStore::with_clock(clock.shared()), ..Self::default() }
    }

    /// The number of claims that are held.
    pub(crate) fn claimed(&self) -> usize {
        self.claims.lock().unwrap().len()
    }

    /// Runs `action` just before the next claim.
    pub(crate) fn on_claim(&self, action: impl FnOnce() + Send + 'static) {
        *self.on_claim.lock().unwrap() = Some(Box::new(action));
    }

    /// Lets a peer store the entry under "k" just before the next claim.
    pub(crate) fn store_on_claim(&self, entry: Entry<String>) {
        let (map, write) = (self.map.clone(), Write::new(key("k"), entry, Ticket::unconditional()));
        self.on_claim(move || block_on(Store::set(&map, write)).unwrap());
    }
}

impl Store for Claiming {
    type Value = String;

    forward!(map: get lease set del clear wait);

    fn profile(&self) -> Profile {
        Store::profile(&self.map).claims(true)
    }

    async fn renew_claims(&self, claims: &[(Key, Ticket)], _life: Duration) -> Result<()> {
        self.renewals.lock().unwrap().extend(claims.iter().map(|(key, _)| key.clone()));
        Ok(())
    }

    async fn claim(&self, key: &Key) -> Result<Claim> {
        if let Some(on_claim) = self.on_claim.lock().unwrap().take() {
            on_claim();
        }
        if let Some(value) = self.arriving.lock().unwrap().take() {
            drop(self.map.insert(key, Entry::new(value, Expiry::Never), 0)?);
        }
        let ticket = Store::lease(&self.map, key).await?;
        let granted = self.claims.lock().unwrap().insert(key.clone(), ticket).is_none();
        let vacant = LocalStore::get(&self.map, key).is_none();
        Ok(if granted { Claim::granted(ticket).vacant(vacant) } else { Claim::refused(ticket) })
    }

    async fn release(&self, key: &Key, _ticket: Ticket) -> Result<()> {
        self.claims.lock().unwrap().remove(key);
        Ok(())
    }

    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.claims.lock().unwrap().remove(&write.key);
        Store::fill(&self.map, write).await
    }
}

/// A process: its own memory in front of the shared store.
pub(crate) fn process(shared: &Claiming, settings: ReadThrough) -> ChainCache<String> {
    ChainCache::builder().tier(MapStore::new()).tier(shared.clone()).read_through(settings).build().unwrap()
}

/// Two processes on one clock.
pub(crate) fn process_pair(shared: &Claiming, clock: &ManualClock, settings: &ReadThrough) -> [ChainCache<String>; 2] {
    [(); 2].map(|()| {
        let memory = MapStore::with_clock(clock.shared());
        let chain = ChainCache::builder().clock(clock.shared()).tier(memory).tier(shared.clone());
        chain.read_through(settings.clone()).build().unwrap()
    })
}

/// Values stay for a minute after their TTL, and serve if a load fails.
pub(crate) fn stale_if_load_fails() -> ReadThrough {
    ReadThrough::new().stale_for(60 * SECOND).serve_stale(ServeStale::IfLoadFails)
}

/// Sets "k" to "old", which is stale now.
pub(crate) async fn set_stale(chain: &ChainCache<String>, clock: &ManualClock) {
    chain.set_with_ttl("k", "old".to_owned(), SECOND).await.unwrap();
    clock.advance(SECOND);
}

/// Loads the value of "k" when the gate opens.
pub(crate) async fn load(chain: &ChainCache<String>, value: &'static str, gate: &Gate) -> Result<String> {
    let gate = gate.clone();
    let load = move || async move {
        gate.passed().await;
        Ok::<_, io::Error>(value.to_owned())
    };
    chain.get_or_load("k", load).await
}

/// Loads the value of "k" at once, by a call for one key or for several.
pub(crate) async fn load_with(
    chain: &ChainCache<String>,
    options: &CallOptions,
    is_batch: bool,
    value: &'static str,
) -> String {
    let chain = chain.with(options);
    if is_batch {
        chain.get_or_load_many(["k"], each(value.to_owned())).await.unwrap().pop().unwrap().unwrap()
    } else {
        chain.get_or_load("k", || async { Ok::<_, io::Error>(value.to_owned()) }).await.unwrap()
    }
}

/// Loads "old", which takes a second, so that each early refresh is due at once. It lives for a
/// minute.
pub(crate) async fn load_slowly(chain: &ChainCache<String>, clock: &ManualClock) {
    let slow = clock.clone();
    let load = move || async move {
        slow.advance(SECOND);
        Ok::<_, io::Error>(Loaded::new("old".to_owned()).ttl(60 * SECOND))
    };
    assert_eq!(chain.get_or_load("k", load).await.unwrap().as_deref(), Some("old"));
    chain.wait().await.unwrap();
}
