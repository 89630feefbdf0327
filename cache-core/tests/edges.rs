//! Stores that break the contract in less obvious ways, which the suite must detect, and tests of
//! lines that no other test covers.
#![cfg(feature = "testkit")]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cache_core::{
    Clock as _, Entry, Key, ManualClock, Profile, Result, SharedClock, Store, Ticket, Write,
    testkit::{Clause, Harness, MapStore, block_on},
};

trait Sabotage: Store<Value = String> + Clone + std::fmt::Debug {
    fn new(clock: SharedClock) -> Self;
}

struct H<S>(ManualClock, std::marker::PhantomData<fn() -> S>);

impl<S: Sabotage> Harness for H<S> {
    type Store = S;
    fn run<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        block_on(test)
    }
    fn clock(&self) -> SharedClock {
        self.0.shared()
    }
    async fn store(&self) -> S {
        S::new(self.0.shared())
    }
    async fn pass(&self, time: Duration) {
        self.0.advance(time);
    }
}

fn found_out<S: Sabotage>() -> Vec<Clause> {
    let harness = || H::<S>(ManualClock::new(), std::marker::PhantomData);
    Clause::ALL.iter().copied().filter(|clause| clause.check(harness()).is_err()).collect()
}

/// Each with the version of its last write.
type Rows = HashMap<Key, (Entry<String>, u64)>;

/// The obvious wrong lease: the version is a column of the row, and a row that is not there has
/// version 0. What was leased while the key was *absent*, which is what every backfill does,
/// survives a `del`, a `clear`, and a `set` with a `del`.
#[derive(Clone, Debug)]
struct VersionInTheRow {
    rows: Arc<Mutex<(Rows, u64)>>,
    clock: SharedClock,
}

impl Sabotage for VersionInTheRow {
    fn new(clock: SharedClock) -> Self {
        Self { rows: Arc::default(), clock }
    }
}

impl VersionInTheRow {
    fn put(&self, write: Write<String>, keep: bool) -> bool {
        let mut state = self.rows.lock().unwrap();
        let version = state.0.get(&write.key).map_or(0, |row| row.1);
        if write.ticket.version().is_some_and(|ticket| ticket != version) {
            if !keep {
                state.0.remove(&write.key);
            }
            return false;
        }
        state.1 += 1;
        let next = if keep && version != 0 { version } else { state.1 };
        state.0.insert(write.key, (write.entry, next));
        true
    }
}

impl Store for VersionInTheRow {
    type Value = String;
    fn profile(&self) -> Profile {
        Profile::new("version in the row").retains(true).takes_once(false)
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
        let found = self.rows.lock().unwrap().0.get(key).map(|row| row.0.clone());
        Ok(found.filter(|entry| !entry.is_expired(self.clock.now())))
    }
    async fn lease(&self, key: &Key) -> Result<Ticket> {
        Ok(Ticket::at(self.rows.lock().unwrap().0.get(key).map_or(0, |row| row.1)))
    }
    async fn fill(&self, write: Write<String>) -> Result<bool> {
        Ok(self.put(write, true))
    }
    async fn set(&self, write: Write<String>) -> Result<()> {
        self.put(write, false);
        Ok(())
    }
    async fn del(&self, key: &Key) -> Result<()> {
        self.rows.lock().unwrap().0.remove(key);
        Ok(())
    }
    async fn clear(&self) -> Result<()> {
        self.rows.lock().unwrap().0.clear();
        Ok(())
    }
    async fn wait(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_lease_of_an_absent_key_is_voided_too() {
    let broken = found_out::<VersionInTheRow>();
    assert_eq!(
        broken,
        [Clause::S17, Clause::S19, Clause::S23],
        "it resurrects after every del, and the suite passes it"
    );
}

/// A `MapStore` with one batch broken; everything else is forwarded.
macro_rules! broken_batch {
    ($name:ident { $($broken:tt)* }) => {
        #[derive(Clone, Debug)]
        struct $name(MapStore<String>);
        impl Sabotage for $name {
            fn new(clock: SharedClock) -> Self {
                Self(MapStore::with_clock(clock))
            }
        }
        impl Store for $name {
            type Value = String;
            fn profile(&self) -> Profile {
                Store::profile(&self.0)
            }
            async fn get(&self, key: &Key) -> Result<Option<Entry<String>>> {
                Store::get(&self.0, key).await
            }
            async fn lease(&self, key: &Key) -> Result<Ticket> {
                Store::lease(&self.0, key).await
            }
            async fn set(&self, write: Write<String>) -> Result<()> {
                self.0.set(write).await
            }
            async fn del(&self, key: &Key) -> Result<()> {
                self.0.del(key).await
            }
            async fn take(&self, key: &Key) -> Result<Option<Entry<String>>> {
                self.0.take(key).await
            }
            async fn clear(&self) -> Result<()> {
                Store::clear(&self.0).await
            }
            async fn wait(&self) -> Result<()> {
                Ok(())
            }
            $($broken)*
        }
    };
}

broken_batch!(SetManyIgnoresTickets {
    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.0.fill(write).await
    }
    async fn set_many(&self, writes: Vec<Write<String>>) -> Vec<Result<()>> {
        let mut results = Vec::new();
        for write in writes {
            results.push(self.0.set(write.with_ticket(Ticket::unconditional())).await);
        }
        results
    }
});

#[test]
fn a_set_many_with_a_void_ticket_leaves_the_key_absent() {
    assert_eq!(
        found_out::<SetManyIgnoresTickets>(),
        [Clause::S18],
        "chain.set_many over it loses against a concurrent set"
    );
}

broken_batch!(TooFewResults {
    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.0.fill(write).await
    }
    async fn set_many(&self, mut writes: Vec<Write<String>>) -> Vec<Result<()>> {
        let last = writes.pop();
        let mut results = Vec::new();
        for write in writes {
            results.push(self.0.set(write).await);
        }
        if let Some(write) = last {
            let set = self.0.set(write).await;
            if results.is_empty() {
                results.push(set);
            }
        }
        results
    }
    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        Store::lease_many(&self.0, &keys[..keys.len().min(1)]).await
    }
    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        let mut results = self.0.del_many(keys).await;
        results.truncate(1);
        results
    }
});

#[test]
fn batches_give_one_result_each() {
    assert_eq!(
        found_out::<TooFewResults>(),
        [Clause::S9, Clause::S18],
        "a chain would not set or report the other keys"
    );
}

broken_batch!(FillVoids {
    async fn fill(&self, write: Write<String>) -> Result<bool> {
        let (key, entry) = (write.key.clone(), write.entry.clone());
        let filled = self.0.fill(write).await?;
        if filled {
            self.0.set(Write::new(key, entry, Ticket::unconditional())).await?;
        }
        Ok(filled)
    }
});

#[test]
fn a_fill_voids_no_ticket_of_another() {
    assert_eq!(
        found_out::<FillVoids>(),
        [Clause::S17, Clause::S18, Clause::S19, Clause::S24],
        "a reader's backfill makes a concurrent writer's set vanish"
    );
}

broken_batch!(SetVoidsOnlyItsOwn {
    async fn fill(&self, write: Write<String>) -> Result<bool> {
        self.0.fill(write).await
    }
    async fn fill_many(&self, writes: Vec<Write<String>>) -> Vec<Result<bool>> {
        // Every batch of two or more is installed whatever the tickets say.
        let conditional = writes.len() < 2;
        let mut results = Vec::new();
        for write in writes {
            let ticket = if conditional { write.ticket } else { Ticket::unconditional() };
            results.push(self.0.fill(write.with_ticket(ticket)).await);
        }
        results
    }
});

#[test]
fn a_batch_of_fills_is_checked_ticket_by_ticket() {
    assert_eq!(found_out::<SetVoidsOnlyItsOwn>(), [Clause::S17, Clause::S18], "a batch of two resurrects");
}

/// Stores whose entries come back with another validator than they were written with.
mod wrong_validators {
    use cache_core::{Displaced, Fence, LocalStore};

    use super::*;

    type Last = Arc<Mutex<HashMap<Key, Arc<str>>>>;

    /// Makes a wrong validator from that of the entry and the last one of its key.
    trait Wrong: Clone + std::fmt::Debug + Send + Sync + 'static {
        fn validator(own: Option<Arc<str>>, last: Option<Arc<str>>) -> Option<Arc<str>>;
    }

    #[derive(Clone, Debug)]
    struct Returns<W>(MapStore<String>, Last, std::marker::PhantomData<fn() -> W>);

    impl<W: Wrong> Sabotage for Returns<W> {
        fn new(clock: SharedClock) -> Self {
            Self(MapStore::with_clock(clock), Arc::default(), std::marker::PhantomData)
        }
    }

    impl<W: Wrong> LocalStore for Returns<W> {
        type Value = String;
        fn profile(&self) -> Profile {
            LocalStore::profile(&self.0)
        }
        fn fence(&self) -> &Fence {
            self.0.fence()
        }
        fn get(&self, key: &Key) -> Option<Entry<String>> {
            LocalStore::get(&self.0, key)
        }
        fn insert(&self, key: &Key, entry: Entry<String>, weight: u64) -> Result<Displaced> {
            let own = entry.validator().cloned();
            let mut last = self.1.lock().unwrap();
            let entry = entry.with_validator(W::validator(own.clone(), last.get(key).cloned()));
            last.extend(own.map(|own| (key.clone(), own)));
            self.0.insert(key, entry, weight)
        }
        fn remove(&self, key: &Key) -> Result<Displaced> {
            self.0.remove(key)
        }
        fn clear(&self) -> Result<()> {
            LocalStore::clear(&self.0)
        }
        fn wait(&self) -> Result<()> {
            Ok(())
        }
    }

    /// Keeps the first bytes of a long one.
    #[derive(Clone, Debug)]
    struct Cut;

    impl Wrong for Cut {
        fn validator(own: Option<Arc<str>>, _: Option<Arc<str>>) -> Option<Arc<str>> {
            own.map(|own| own.chars().take(100).collect::<String>().into())
        }
    }

    /// Replaces the value and leaves the validator, so that the next load is told that the old
    /// value is current.
    #[derive(Clone, Debug)]
    struct Stays;

    impl Wrong for Stays {
        fn validator(own: Option<Arc<str>>, last: Option<Arc<str>>) -> Option<Arc<str>> {
            last.or(own)
        }
    }

    /// As `Stays`, but only where the new value has none.
    #[derive(Clone, Debug)]
    struct StaysWithoutANewOne;

    impl Wrong for StaysWithoutANewOne {
        fn validator(own: Option<Arc<str>>, last: Option<Arc<str>>) -> Option<Arc<str>> {
            own.or(last)
        }
    }

    /// Forgets it, as it may.
    #[derive(Clone, Debug)]
    struct Forgets;

    impl Wrong for Forgets {
        fn validator(_: Option<Arc<str>>, _: Option<Arc<str>>) -> Option<Arc<str>> {
            None
        }
    }

    fn s20_catches<W: Wrong>() -> bool {
        let harness = H::<Returns<W>>(ManualClock::new(), std::marker::PhantomData);
        Clause::S20.check(harness).is_err_and(|broken| broken.contains("the validator became"))
    }

    #[test]
    fn a_validator_that_comes_back_is_the_right_one() {
        assert!(s20_catches::<Cut>() && s20_catches::<Stays>() && s20_catches::<StaysWithoutANewOne>());
        let harness = H::<Returns<Forgets>>(ManualClock::new(), std::marker::PhantomData);
        assert_eq!(Clause::S20.check(harness), Ok(()));
    }
}

use cache_core::{DelegateCache, Displaced, Error, ErrorKind, Expiry, Fence, Lifetime, LocalStore, Moment, Ttl};

/// A local store of which one step can be told to misbehave.
#[derive(Clone)]
struct Told {
    map: MapStore<u64>,
    broken: bool,
    /// A fill that is tried when the store has just been cleared.
    late: Arc<Mutex<Option<Write<u64>>>>,
}

impl LocalStore for Told {
    type Value = u64;
    fn profile(&self) -> Profile {
        LocalStore::profile(&self.map)
    }
    fn fence(&self) -> &Fence {
        self.map.fence()
    }
    fn get(&self, key: &Key) -> Option<Entry<u64>> {
        LocalStore::get(&self.map, key)
    }
    fn insert(&self, key: &Key, entry: Entry<u64>, weight: u64) -> Result<Displaced> {
        if self.broken { Err(Error::new(ErrorKind::Backend, "broken")) } else { self.map.insert(key, entry, weight) }
    }
    fn remove(&self, key: &Key) -> Result<Displaced> {
        if self.broken { Err(Error::new(ErrorKind::Backend, "broken")) } else { self.map.remove(key) }
    }
    fn clear(&self) -> Result<()> {
        LocalStore::clear(&self.map)?;
        if let Some(write) = self.late.lock().unwrap().take() {
            block_on(self.map.fill(write))?;
        }
        Ok(())
    }
    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

fn told(broken: bool) -> Told {
    Told { map: MapStore::new(), broken, late: Arc::default() }
}

fn write(key: &Key, ticket: Ticket) -> Write<u64> {
    Write::new(key.clone(), Entry::new(1, Expiry::Never), ticket)
}

#[test]
fn a_fill_right_after_a_clear_of_a_local_store_is_refused() {
    let (store, key) = (told(false), Key::new("k").unwrap());
    *store.late.lock().unwrap() = Some(write(&key, store.fence().lease(&key)));
    block_on(Store::clear(&store)).unwrap();
    assert!(store.map.is_empty(), "tickets are voided before the rows are removed");
}

#[test]
fn the_fault_of_a_local_store_is_an_error() {
    let (store, key) = (told(true), Key::new("k").unwrap());
    for error in [
        block_on(store.set(write(&key, Ticket::unconditional()))).unwrap_err(),
        block_on(store.fill(write(&key, Ticket::unconditional()))).unwrap_err(),
        block_on(store.del(&key)).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Backend);
    }
    let cache = DelegateCache::new(store);
    assert_eq!(block_on(cache.set_many([("k", 1)])).unwrap_err().kind(), ErrorKind::Backend);
    assert_eq!(block_on(cache.del_many(["k"])).unwrap_err().kind(), ErrorKind::Backend);
}

/// A value that uses the store it falls out of.
#[test]
fn what_is_displaced_is_dropped_after_the_lock() {
    #[derive(Clone)]
    struct Reentrant {
        _on_drop: Arc<OnDrop>,
    }
    struct OnDrop(MapStore<Reentrant>, Key);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            block_on(self.0.del(&self.1)).unwrap();
        }
    }
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (store, key) = (MapStore::<Reentrant>::new(), Key::new("k").unwrap());
        let put = || {
            Write::new(
                key.clone(),
                Entry::new(Reentrant { _on_drop: Arc::new(OnDrop(store.clone(), key.clone())) }, Expiry::Never),
                Ticket::unconditional(),
            )
        };
        for step in 0..4 {
            block_on(store.set(put())).unwrap();
            match step {
                0 => block_on(store.set(put())).unwrap(),
                1 => assert!(block_on(store.fill(put())).unwrap()),
                2 => block_on(store.del(&key)).unwrap(),
                _ => block_on(Store::clear(&store)).unwrap(),
            }
            done.send(step).unwrap();
        }
    });
    for step in 0..4 {
        assert_eq!(finished.recv_timeout(Duration::from_secs(5)), Ok(step), "it waits for itself");
    }
}

#[test]
fn a_delegate_cache_keeps_its_ttls_and_its_clock() {
    let clock = ManualClock::new();
    let minute = Duration::from_secs(60);
    let store = MapStore::<u64>::with_clock(clock.shared());
    let cache = DelegateCache::new(store.clone()).with_clock(clock.shared());
    assert_eq!(cache.clone().with_default_ttl(Duration::ZERO).unwrap_err().kind(), ErrorKind::InvalidInput);
    let cache = cache.with_default_ttl(minute).unwrap();
    block_on(cache.set("a", 1)).unwrap();
    block_on(cache.set_many([("b", 2)])).unwrap();
    block_on(cache.set_with_ttl("c", 3, 2 * minute)).unwrap();
    assert_eq!(block_on(cache.set_with_ttl("c", 4, Duration::ZERO)).unwrap_err().kind(), ErrorKind::InvalidInput);
    clock.advance(minute / 2);
    let left = |key| block_on(cache.get_with_ttl(key)).unwrap();
    assert_eq!(left("a"), Some((1, Ttl::After(minute / 2))));
    assert_eq!(left("b"), Some((2, Ttl::After(minute / 2))));
    assert_eq!(left("c"), Some((3, Ttl::After(minute * 3 / 2))));
    clock.advance(minute / 2);
    assert_eq!(block_on(cache.get_many(["a", "b", "c"])).unwrap(), [None, None, Some(3)]);
    block_on(cache.del_many(["c"])).unwrap();
    assert_eq!(block_on(cache.get("c")).unwrap(), None);
}

#[test]
fn a_validator_stays_with_its_entry_and_is_shown_to_nobody() {
    let at = |nanos| Expiry::At(cache_core::Moment::from_nanos(nanos));
    let of = |validator: &str| Some(Arc::from(validator));
    for entry in [Entry::new(7, at(9)), Entry::absent(at(9))] {
        let entry = entry.with_validator(of("s3cret"));
        let changed = entry.clone().map(|value| value + 1).expiring_by(at(8)).fresh_until(at(5));
        let changed =
            changed.with_lifetime(cache_core::Lifetime::new(at(7))).created_at(cache_core::Moment::from_nanos(1));
        assert_eq!(changed.loaded_in(Duration::from_secs(1)).validator(), of("s3cret").as_ref());
        assert!(!format!("{entry:?}").contains("s3cret"));
        assert_ne!(entry, entry.clone().with_validator(of("other")));
        assert_eq!(entry, entry.clone().with_validator(of("s3cret")));
        // One that no store could keep is dropped, and does not leave the old one.
        for unfit in ["", &"x".repeat(Entry::MAX_VALIDATOR + 1)] {
            assert_eq!(entry.clone().with_validator(of(unfit)).validator(), None);
        }
        assert_eq!(entry.with_validator(None).validator(), None);
    }
    let longest = "x".repeat(Entry::MAX_VALIDATOR);
    assert_eq!(Entry::new(7, at(9)).with_validator(of(&longest)).validator(), of(&longest).as_ref());
    // Entries are moved on every hit: four times and a validator, a version and a stamp, one word each.
    assert_eq!(size_of::<Entry<u64>>(), size_of::<Option<u64>>() + 7 * size_of::<u64>());
}

#[test]
fn expiring_by_only_shortens() {
    let at = |nanos| Expiry::At(cache_core::Moment::from_nanos(nanos));
    let expiry = |own, other| Entry::new((), own).expiring_by(other).expiry();
    assert_eq!(expiry(at(1), at(2)), at(1));
    assert_eq!(expiry(at(2), at(1)), at(1));
    assert_eq!(expiry(at(1), Expiry::Never), at(1));
    assert_eq!(expiry(Expiry::Never, at(1)), at(1));
}

/// What a chain keeps to be served stale, and that there is nothing, is a miss for who reads the
/// store directly.
#[test]
fn a_cache_over_one_store_serves_nothing_stale() {
    let clock = ManualClock::new();
    let store = MapStore::with_clock(clock.shared());
    let cache = DelegateCache::new(store.clone()).with_clock(clock.shared());
    let at = |seconds| Expiry::after(clock.now(), Duration::from_secs(seconds).into());
    let entries = [Entry::new(7, at(10)).fresh_until(at(5)), Entry::absent(at(10))];
    for (name, entry) in ["k", "absent"].into_iter().zip(entries) {
        let write = Write::new(Key::new(name).unwrap(), entry, Ticket::unconditional());
        block_on(store.set(write)).unwrap();
    }
    let read = || {
        block_on(async {
            let found = (cache.get("k").await.unwrap(), cache.get("absent").await.unwrap());
            (found, cache.get_many(["k", "absent"]).await.unwrap(), cache.get_with_ttl("k").await.unwrap())
        })
    };
    let five = Ttl::After(Duration::from_secs(5));
    assert_eq!(read(), ((Some(7), None), vec![Some(7), None], Some((7, five))));
    clock.advance(Duration::from_secs(5));
    assert_eq!(read(), ((None, None), vec![None, None], None));
}

#[test]
fn an_entry_that_does_not_expire_does_not_turn_stale() {
    let stale_at = Expiry::At(Moment::from_nanos(1));
    let entry = Entry::new(1, Expiry::Never).fresh_until(stale_at);
    assert_eq!((entry.stale_at(), entry.turns_stale()), (Expiry::Never, false));
    let expires = Entry::new(1, Expiry::At(Moment::from_nanos(2))).fresh_until(stale_at);
    assert_eq!((expires.stale_at(), expires.turns_stale()), (stale_at, true));
    let entry = expires.with_lifetime(Lifetime::new(Expiry::Never).fresh_until(stale_at));
    assert_eq!((entry.stale_at(), entry.turns_stale()), (Expiry::Never, false));
}

/// A store whose insertions, which run under the lock, wait for a read, but not for long: a reader
/// may wait for the lock.
#[derive(Clone)]
struct Slow {
    map: MapStore<u64>,
    is_inserting: Arc<AtomicBool>,
    was_read: Arc<AtomicBool>,
}

impl LocalStore for Slow {
    type Value = u64;
    fn profile(&self) -> Profile {
        LocalStore::profile(&self.map)
    }
    fn fence(&self) -> &Fence {
        self.map.fence()
    }
    fn get(&self, key: &Key) -> Option<Entry<u64>> {
        let found = LocalStore::get(&self.map, key);
        self.was_read.store(true, Ordering::SeqCst);
        found
    }
    fn insert(&self, key: &Key, entry: Entry<u64>, weight: u64) -> Result<Displaced> {
        self.is_inserting.store(true, Ordering::SeqCst);
        for _ in 0..20_000 {
            if self.was_read.load(Ordering::SeqCst) {
                break;
            }
            std::thread::yield_now();
        }
        self.map.insert(key, entry, weight)
    }
    fn remove(&self, key: &Key) -> Result<Displaced> {
        self.map.remove(key)
    }
    fn clear(&self) -> Result<()> {
        LocalStore::clear(&self.map)
    }
    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_take_in_the_middle_of_a_write_gets_what_was_written() {
    let (map, key) = (MapStore::new(), Key::new("k").unwrap());
    block_on(map.set(Write::new(key.clone(), Entry::new(0, Expiry::Never), Ticket::unconditional()))).unwrap();
    let store = Slow { map, is_inserting: Arc::default(), was_read: Arc::default() };
    let taken = std::thread::scope(|scope| {
        scope.spawn(|| block_on(store.set(write(&key, Ticket::unconditional()))).unwrap());
        while !store.is_inserting.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        block_on(store.take(&key)).unwrap()
    });
    assert_eq!(taken.and_then(Entry::into_value), Some(1), "the value that was replaced, and the new one is lost");
    assert!(store.map.is_empty());
}

/// `touch` by reading and filling, in a store that counts the calls.
mod touch_by_filling {
    use cache_core::{
        backend::touch_by_filling,
        testkit::{Operation, Phase, ScriptedStore},
    };

    use super::*;

    const HOUR: Lifetime = Lifetime::new(Expiry::At(Moment::from_nanos(3_600_000_000_000)));

    fn touch(store: &ScriptedStore<MapStore<u64>>, key: &Key) -> Result<bool> {
        block_on(touch_by_filling(store, key, HOUR, Moment::from_nanos(0)))
    }

    #[test]
    fn the_lease_is_released_unless_it_is_used() {
        let (store, key) = (ScriptedStore::new(MapStore::new()), Key::new("k").unwrap());
        let released = || store.calls_of(Operation::Release);
        assert!(!touch(&store, &key).unwrap());
        assert_eq!(released(), 1);
        store.fail(Operation::Get, ErrorKind::Codec);
        assert_eq!(touch(&store, &key).unwrap_err().kind(), ErrorKind::Codec);
        assert_eq!(released(), 2);
        store.heal();
        // A failure of the release is none of the touch.
        store.fail(Operation::Release, ErrorKind::Timeout);
        assert!(!touch(&store, &key).unwrap());
        store.heal();
        let released_before = released();
        block_on(store.set(write(&key, Ticket::unconditional()))).unwrap();
        assert!(touch(&store, &key).unwrap());
        assert_eq!(released(), released_before);
    }

    #[test]
    fn a_void_ticket_is_taken_anew_and_not_for_ever() {
        for (writes, touched) in [(0, true), (2, true), (3, false)] {
            let map = MapStore::with_clock(ManualClock::new().shared());
            let key = Key::new("k").unwrap();
            block_on(map.set(write(&key, Ticket::unconditional()))).unwrap();
            let store = ScriptedStore::new(map.clone());
            let (rival, its_key, count) = (map.clone(), key.clone(), Arc::new(Mutex::new(0)));
            store.at_every_step(move |operation, phase| {
                let mut count = count.lock().unwrap();
                let voids = (operation, phase) == (Operation::Fill, Phase::Before) && *count < writes;
                if voids {
                    *count += 1;
                    let entry = Entry::new(10 + *count, Expiry::Never);
                    block_on(rival.set(Write::new(its_key.clone(), entry, Ticket::unconditional()))).unwrap();
                }
                std::future::ready(())
            });
            assert_eq!(touch(&store, &key).unwrap(), touched, "{writes} writes");
            let found = LocalStore::get(&map, &key).unwrap();
            assert_eq!(found.expiry(), if touched { HOUR.expiry } else { Expiry::Never });
            assert_eq!(found.into_value(), Some(if writes == 0 { 1 } else { 10 + writes }));
        }
    }
}
