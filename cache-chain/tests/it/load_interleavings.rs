//! G1 for read-through, by exhaustion: loads, and writers that change the origin and then
//! invalidate, through every order in which their effects can happen.

use std::time::Duration;

use cache_chain::{Cache, CacheKey, CallOptions, ChainCache, ReadThrough, Result, SystemClock, Tier, Ttl};
use cache_core::{
    Key, LocalStore, Store, Ticket, Write,
    testkit::{
        Do::{self, Clear, Del, Get, GetMany, Set},
        MapStore, Schedules, ScriptedStore, Turnstile, race,
    },
};

const KEY: &str = "k";

type Scripted = ScriptedStore<MapStore<u32>>;

/// What an application makes of a chain: reads load from the origin, writes change the origin and
/// then invalidate.
struct CacheAside {
    chain: ChainCache<u32>,
    /// The chain of the writers.
    writer: ChainCache<u32>,
    origin: Scripted,
    reads: CallOptions,
    invalidation: Invalidation,
}

/// The call by which a writer invalidates the key.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Invalidation {
    Del,
    Take,
    Expire,
}

impl CacheAside {
    async fn invalidate(&self) -> Result<()> {
        match self.invalidation {
            Invalidation::Del => self.writer.del(KEY).await,
            Invalidation::Take => self.writer.take(KEY).await.map(drop),
            Invalidation::Expire => self.writer.expire(KEY).await,
        }
    }

    fn load(&self, key: Key) -> impl FnOnce() -> Loading + Send + use<> {
        let origin = self.origin.clone();
        move || Box::pin(async move { Ok(origin.get(&key).await?.and_then(cache_core::Entry::into_value)) })
    }
}

type Loading = std::pin::Pin<Box<dyn Future<Output = Result<Option<u32>>> + Send>>;

impl Cache for CacheAside {
    type Value = u32;

    fn set(&self, key: impl CacheKey, value: u32) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move {
            let key = key?;
            let entry = cache_core::Entry::new(value, cache_core::Expiry::Never);
            self.origin.set(Write::new(key, entry, Ticket::unconditional())).await?;
            self.invalidate().await
        }
    }

    fn get(&self, key: impl CacheKey) -> impl Future<Output = Result<Option<u32>>> + Send {
        let key = Key::new(&key);
        async move { self.chain.with(&self.reads).get_or_load(KEY, self.load(key?)).await }
    }

    fn set_with_ttl(&self, _: impl CacheKey, _: u32, _: Duration) -> impl Future<Output = Result<()>> + Send {
        std::future::pending() // No race does that.
    }

    fn get_with_ttl(&self, _: impl CacheKey) -> impl Future<Output = Result<Option<(u32, Ttl)>>> + Send {
        std::future::pending() // No race does that.
    }

    fn del(&self, key: impl CacheKey) -> impl Future<Output = Result<()>> + Send {
        let key = Key::new(&key);
        async move {
            self.origin.del(&key?).await?;
            self.invalidate().await
        }
    }

    async fn clear(&self) -> Result<()> {
        Store::clear(&self.origin).await?;
        self.chain.clear().await
    }

    async fn wait(&self) -> Result<()> {
        self.chain.wait().await
    }

    fn get_many<K: CacheKey>(
        &self,
        _: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<Vec<Option<u32>>>> + Send {
        let origin = self.origin.clone();
        let load = move |missing: Vec<&'static str>| async move {
            let mut found = Vec::new();
            for key in missing {
                found.push((key, origin.get(&Key::new(key)?).await?.and_then(cache_core::Entry::into_value)));
            }
            Ok::<_, cache_chain::Error>(found)
        };
        async { self.chain.with(&self.reads).get_or_load_many([KEY], load).await }
    }

    fn set_many<K: CacheKey>(&self, _: impl IntoIterator<Item = (K, u32)>) -> impl Future<Output = Result<()>> + Send {
        std::future::pending() // No race does that.
    }

    fn del_many<K: CacheKey>(&self, _: impl IntoIterator<Item = K>) -> impl Future<Output = Result<()>> + Send {
        std::future::pending() // No race does that.
    }
}

struct Scenario<'a> {
    tiers: usize,
    /// Whether the stores keep their promises about tickets.
    sound: bool,
    reload: bool,
    invalidation: Invalidation,
    /// Whether another process writes.
    elsewhere: bool,
    tasks: &'a [&'a [Do]],
}

impl Scenario<'_> {
    fn of(tiers: usize) -> Self {
        Self { tiers, sound: true, reload: false, invalidation: Invalidation::Del, elsewhere: false, tasks: &[] }
    }

    /// Runs the scenario in one order and checks what must hold. The origin starts with 0.
    async fn run(&self, schedules: &mut Schedules) {
        let maps: Vec<MapStore<u32>> = (0..=self.tiers).map(|_| MapStore::new()).collect();
        let turnstile = Turnstile::default();
        let mut builders = [ChainCache::builder(), ChainCache::builder()];
        let mut stores = Vec::new();
        for map in &maps[..self.tiers] {
            let store = ScriptedStore::new(map.clone());
            let store = if self.sound { store } else { store.ignoring_tickets() };
            builders = builders.map(|builder| builder.tier(Tier::new(store.clone())));
            stores.push(store);
        }
        let origin = ScriptedStore::new(maps[self.tiers].clone());
        let settings = ReadThrough::new().stale_for(Duration::from_secs(3600));
        let [chain, other] = builders.map(|builder| builder.read_through(settings.clone()).build().unwrap());
        let reads = if self.reload { CallOptions::new().reload() } else { CallOptions::new() };
        let cache = CacheAside {
            writer: if self.elsewhere { other } else { chain.clone() },
            chain,
            origin: origin.clone(),
            reads: reads.no_stale(),
            invalidation: self.invalidation,
        };
        cache.set(KEY, 0).await.unwrap();
        for store in stores.iter().chain([&origin]) {
            turnstile.control(store);
        }

        race(&cache, KEY, self.tasks, &turnstile, schedules).await;

        let path = schedules.path();
        let key = Key::new(KEY).unwrap();
        let truth = LocalStore::get(&maps[self.tiers], &key).and_then(cache_core::Entry::into_value);
        for (at, map) in maps[..self.tiers].iter().enumerate() {
            // Absence is something to hold, too.
            let Some(held) = LocalStore::get(map, &key) else { continue };
            if held.is_stale(SystemClock::shared().now()) {
                continue;
            }
            assert_eq!(held.value(), truth.as_ref(), "at rest, tier {at} is wrong; schedule {path:?}");
        }
        assert_eq!(cache.chain.stats().loads.in_flight, 0, "a flight is left; schedule {path:?}");
    }

    fn run_through(&self, mut schedules: Schedules) -> usize {
        // Time stands still: on a slow machine a timeout would be one more effect.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            while schedules.next() {
                self.run(&mut schedules).await;
            }
        });
        schedules.tried()
    }
}

#[test]
fn g1_no_order_of_effects_caches_what_was_loaded_before_a_write() {
    let one: &[&[&[Do]]] = &[
        &[&[Get], &[Set(1)]],
        &[&[Get], &[Del]],
        &[&[Get], &[Clear]],
        &[&[Get], &[Set(1), Get]],
        &[&[Get], &[Del, Get]],
        &[&[Get], &[Clear, Get]],
        &[&[GetMany], &[Set(1), Get]],
        &[&[Get], &[Set(1)], &[Set(2)]],
        &[&[Get], &[Get], &[Set(1)]],
        &[&[Get], &[Get], &[Del]],
        &[&[Get], &[Set(1)], &[Del]],
    ];
    let two: &[&[&[Do]]] =
        &[&[&[Get], &[Set(1)]], &[&[Get], &[Clear]], &[&[GetMany], &[Del]], &[&[Get], &[Set(1), Get]]];
    let mut tried = 0;
    for (tiers, scenarios) in [(1, one), (2, two)] {
        for tasks in scenarios {
            tried += Scenario { tasks, ..Scenario::of(tiers) }.run_through(Schedules::all());
        }
    }
    assert!(tried > 2_500, "only {tried} orders: the stores are not under control");
}

#[test]
fn g1_random_orders_of_larger_scenarios_with_loads() {
    let tasks: &[&[&[Do]]] = &[
        &[&[Get, Get], &[Set(1), Get], &[Set(2), Del], &[Get, GetMany]],
        &[&[Get, GetMany, Get], &[Set(1), Set(2)], &[Clear, Get]],
    ];
    for (seed, tasks) in tasks.iter().enumerate() {
        for tiers in [1, 2] {
            let tried = Scenario { tasks, ..Scenario::of(tiers) }.run_through(Schedules::random(seed as u64, 400));
            assert_eq!(tried, 400);
        }
    }
}

#[test]
fn g1_no_order_of_effects_undoes_what_take_expire_and_reload_have_done() {
    let tasks: &[&[&[Do]]] =
        &[&[&[Get], &[Set(1)]], &[&[Get], &[Set(1), Get]], &[&[Get], &[Del, Get]], &[&[GetMany], &[Set(1)]]];
    let mut tried = 0;
    for tasks in tasks {
        for (reload, invalidation) in [
            (true, Invalidation::Del),
            (false, Invalidation::Take),
            (false, Invalidation::Expire),
            (true, Invalidation::Expire),
        ] {
            let scenario = Scenario { reload, invalidation, tasks, ..Scenario::of(1) };
            tried += scenario.run_through(Schedules::all());
        }
    }
    for (reload, invalidation) in [(true, Invalidation::Del), (false, Invalidation::Expire)] {
        let scenario = Scenario {
            reload,
            invalidation,
            tasks: &[&[Get, GetMany], &[Get], &[Set(1), Get], &[Set(2)]],
            ..Scenario::of(2)
        };
        tried += scenario.run_through(Schedules::random(7, 400));
    }
    assert!(tried > 1_000, "only {tried} orders: the stores are not under control");
}

/// The check can fail: without leases, a load brings back what was replaced.
#[test]
fn the_search_finds_what_leases_prevent_for_loads() {
    let tasks: &[&[&[Do]]] = &[&[&[Get], &[Set(1)]], &[&[Get], &[Del]], &[&[Get], &[Clear]], &[&[GetMany], &[Del]]];
    let cases = tasks.iter().map(|tasks| (*tasks, false, false, Invalidation::Del));
    let expire: &[&[Do]] = &[&[Get], &[Set(1)]];
    // In one process, to expire a key waits for the fill of a load.
    let cases = cases.chain([(expire, false, true, Invalidation::Expire), (expire, true, false, Invalidation::Del)]);
    for (tasks, reload, elsewhere, invalidation) in cases {
        let run = |sound| {
            let scenario = Scenario { sound, reload, invalidation, elsewhere, tasks, ..Scenario::of(1) };
            scenario.run_through(Schedules::all())
        };
        if elsewhere {
            assert!(run(true) > 10);
        }
        let found = std::panic::catch_unwind(|| run(false));
        let panic = found.expect_err("the search found nothing");
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains("at rest") || message.contains("is older than"), "{message}");
    }
}
