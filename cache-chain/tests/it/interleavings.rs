//! G1, by exhaustion: the real chain over controlled stores, through every order in which the
//! effects of concurrent operations can happen.

use cache_chain::{ChainCache, Tier};
use cache_core::{
    Key, LocalStore,
    testkit::{
        Do::{self, Clear, Del, Get, GetMany, Set},
        MapStore, Schedules, ScriptedStore, Turnstile, race,
    },
};

/// How the stores treat leases.
#[derive(Clone, Copy, Debug)]
enum Leases {
    /// They keep them.
    Kept,
    /// They do not, and say so: the chain guards them.
    Guarded,
    /// They do not, and say they do: the promise cannot hold.
    Ignored,
}
use Leases::{Guarded, Ignored, Kept};

struct Scenario<'a> {
    tiers: usize,
    leases: Leases,
    tasks: &'a [&'a [Do]],
}

const KEY: &str = "k";

impl Scenario<'_> {
    /// Runs the scenario in one order and checks what must hold. The last tier starts with 0.
    async fn run(&self, schedules: &mut Schedules) {
        let maps: Vec<MapStore<u32>> = (0..self.tiers).map(|_| MapStore::new()).collect();
        let turnstile = Turnstile::default();
        let mut builder = ChainCache::builder();
        let mut stores = Vec::new();
        for map in &maps {
            let store = ScriptedStore::new(map.clone());
            let store = match self.leases {
                Kept => store,
                Guarded => store.without_leases(),
                Ignored => store.ignoring_tickets(),
            };
            builder = builder.tier(Tier::new(store.clone()));
            stores.push(store);
        }
        let chain = builder.build().unwrap();
        let last = ChainCache::builder().tier(maps[self.tiers - 1].clone()).build().unwrap();
        last.set(KEY, 0).await.unwrap();
        for store in &stores {
            turnstile.control(store);
        }

        race(&chain, KEY, self.tasks, &turnstile, schedules).await;

        let path = schedules.path();
        let bottom =
            LocalStore::get(&maps[self.tiers - 1], &Key::new(KEY).unwrap()).and_then(cache_core::Entry::into_value);
        for (at, map) in maps.iter().enumerate() {
            let held = LocalStore::get(map, &Key::new(KEY).unwrap()).and_then(cache_core::Entry::into_value);
            assert!(
                held.is_none() || held == bottom,
                "at rest, tier {at} holds {held:?} above {bottom:?}; schedule {path:?}"
            );
        }
    }

    fn run_all(&self) -> usize {
        self.run_through(Schedules::all())
    }

    fn run_through(&self, mut schedules: Schedules) -> usize {
        // Time stands still: on a slow machine a tier's timeout would be one more effect.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            while schedules.next() {
                self.run(&mut schedules).await;
            }
        });
        schedules.tried()
    }
}

/// Every order for two tiers, and for three as far as it takes no more than seconds.
#[test]
fn g1_no_order_of_effects_resurrects_an_older_value() {
    let two: &[&[&[Do]]] = &[
        &[&[Get], &[Del]],
        &[&[Get], &[Set(1)]],
        &[&[Get], &[Clear]],
        &[&[Get], &[Del, Get]],
        &[&[Get], &[Set(1), Get]],
        &[&[GetMany], &[Clear, Get]],
        &[&[GetMany], &[Set(1), Del]],
        &[&[Get], &[Del, Set(1)]],
        &[&[Get], &[Get], &[Del]],
        &[&[Get], &[Set(1)], &[Del]],
        &[&[Get], &[Set(1)], &[Set(2)]],
    ];
    let three: &[&[&[Do]]] =
        &[&[&[Get], &[Del]], &[&[Get], &[Set(1)]], &[&[Get], &[Clear]], &[&[GetMany], &[Del, Get]]];
    let mut tried = 0;
    for tasks in two {
        for leases in [Kept, Guarded] {
            tried += Scenario { tiers: 2, leases, tasks }.run_all();
        }
    }
    for tasks in three {
        tried += Scenario { tiers: 3, leases: Kept, tasks }.run_all();
    }
    assert!(tried > 5_000, "only {tried} orders: the stores are not under control");
}

#[test]
fn g1_random_orders_of_larger_scenarios() {
    let tasks: &[&[&[Do]]] = &[
        &[&[Get, Get], &[Set(1), Del], &[Set(2), Get], &[Get]],
        &[&[Get, GetMany], &[Set(1), Set(2)], &[Clear, Set(3)], &[Del, Get]],
    ];
    for (seed, tasks) in tasks.iter().enumerate() {
        for (tiers, leases) in [(2, Kept), (2, Guarded), (3, Kept), (3, Guarded)] {
            let tried = Scenario { tiers, leases, tasks }.run_through(Schedules::random(seed as u64, 200));
            assert_eq!(tried, 200);
        }
    }
}

/// The check can fail: without leases, each of these writes is undone by the backfill of an older
/// value.
#[test]
fn the_search_finds_what_leases_prevent() {
    let tasks: &[&[&[Do]]] =
        &[&[&[Get], &[Del]], &[&[Get], &[Set(1)]], &[&[Get], &[Clear]], &[&[GetMany], &[Del]], &[&[Set(1)], &[Set(2)]]];
    for tasks in tasks {
        let found = std::panic::catch_unwind(|| Scenario { tiers: 2, leases: Ignored, tasks }.run_all());
        let panic = found.expect_err("the search found nothing");
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains("at rest") || message.contains("is older than"), "{message}");
    }
}
