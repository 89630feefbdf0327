//! Cases of all backends: what calls with options and the operations beyond those of a `Cache` do
//! to two processes that share the backend.
#![allow(missing_docs, reason = "the name of a case says what it checks")]

use std::{io, time::Duration};

use cache_chain::{
    CallOptions, ChainCache, ErrorKind, LoadContext, Loaded, ReadThrough, ServeStale, Source, Tier, Ttl,
};
use cache_core::{
    Clock as _, Expiry, Lifetime, Store as _, SystemClock,
    testkit::{MapStore, join_all},
};

use crate::{Backend, key, living, value};

/// The scale of the TTLs here.
const HOUR: Duration = Duration::from_secs(3600);

/// Makes a test of each case here, by `on_redis` or `on_each_database`.
#[macro_export]
macro_rules! operation_cases {
    ($on_backend:ident) => {
        $crate::suite! {
            $on_backend, operations:
            an_expired_value_is_stale_for_all_processes,
            a_value_that_two_processes_expire_is_kept,
            of_many_takers_in_two_processes_one_gets_the_value,
            a_touch_is_seen_by_all_processes,
            a_touch_undoes_no_fill,
            a_reload_replaces_what_another_process_has_stored,
            a_value_has_one_age_in_all_processes,
            a_validator_is_known_to_all_processes
            ;
        }
    };
}

/// Two processes: each has its own memory in front of the backend.
async fn processes<B: Backend>(backend: &B) -> [ChainCache<u32>; 2] {
    [process(backend).await, process(backend).await]
}

async fn process<B: Backend>(backend: &B) -> ChainCache<u32> {
    ChainCache::builder()
        .tier(Tier::new(MapStore::new()).name("memory"))
        .tier(Tier::new(backend.connect().await).name("shared"))
        .default_ttl(HOUR)
        .read_through(ReadThrough::new().stale_for(HOUR).serve_stale(ServeStale::IfLoadFails))
        .build()
        .expect("a chain")
}

/// Asks the backend, and not memory.
fn shared() -> CallOptions {
    CallOptions::new().skip_read("memory").skip_write("memory")
}

async fn down() -> io::Result<u32> {
    Err(io::Error::other("down"))
}

pub async fn an_expired_value_is_stale_for_all_processes<B: Backend>(backend: B) {
    let [one, two] = processes(&backend).await;
    one.set("k", 1).await.unwrap();
    one.expire("k").await.unwrap();
    for chain in [&one, &two] {
        assert_eq!(chain.get("k").await.unwrap(), None);
        assert!(!chain.contains("k").await.unwrap());
        let found = chain.get_or_load_detailed("k", down).await.unwrap();
        assert_eq!((found.value, found.stale), (Some(1), true));
        assert!(found.ttl <= Ttl::After(HOUR), "{:?}", found.ttl);
    }
    // A value that is new again.
    one.set("k", 2).await.unwrap();
    assert_eq!(two.with(&shared()).get("k").await.unwrap(), Some(2));
}

pub async fn a_value_that_two_processes_expire_is_kept<B: Backend>(backend: B) {
    let [one, two] = processes(&backend).await;
    for round in 0..20 {
        one.set(round, 1).await.unwrap();
        for expired in join_all([one.expire(round), two.expire(round), one.expire(round)]).await {
            expired.unwrap();
        }
        assert_eq!(one.get(round).await.unwrap(), None);
        assert_eq!(one.get_or_load(round, down).await.unwrap(), 1, "round {round}");
    }
}

pub async fn of_many_takers_in_two_processes_one_gets_the_value<B: Backend>(backend: B) {
    let [one, two] = processes(&backend).await;
    for round in 0..10 {
        one.set("k", round).await.unwrap();
        assert_eq!(two.get("k").await.unwrap(), Some(round));
        let takers = (0..20).map(|at| if at % 2 == 0 { one.take("k") } else { two.take("k") });
        let taken: Vec<u32> = join_all(takers).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(taken, [round]);
        for chain in [&one, &two] {
            chain.wait().await.unwrap();
            assert_eq!(chain.get("k").await.unwrap(), None);
        }
    }
}

pub async fn a_touch_is_seen_by_all_processes<B: Backend>(backend: B) {
    let [one, two] = processes(&backend).await;
    one.set_with_ttl("k", 1, Duration::from_secs(60)).await.unwrap();
    assert!(one.touch("k", HOUR).await.unwrap());
    for chain in [&one, &two] {
        let (value, ttl) = chain.get_with_ttl("k").await.unwrap().unwrap();
        assert!(value == 1 && ttl > Ttl::After(HOUR / 2) && ttl <= Ttl::After(HOUR), "{ttl:?}");
    }
    // It ends a life as well, and revives none.
    assert!(two.touch("k", Duration::from_millis(1)).await.unwrap());
    crate::eventually("the value is stale", async || two.get("k").await.unwrap().is_none().then_some(())).await;
    assert_eq!(one.with(&shared()).get("k").await.unwrap(), None);
    assert!(!one.touch("k", HOUR).await.unwrap());
    assert_eq!(one.get("k").await.unwrap(), None, "it is deleted from memory, where its life was longer");
    assert!(!one.touch("absent", HOUR).await.unwrap());
}

/// A fill voids no ticket, so a ticket does not tell a touch that the value was replaced meanwhile.
pub async fn a_touch_undoes_no_fill<B: Backend>(backend: B) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let key = key("k");
    for round in 0..60 {
        ours.set(living(&key, 0, HOUR)).await.unwrap();
        let ticket = ours.lease(&key).await.unwrap();
        let now = SystemClock.now();
        // With a soft deadline, the record in Redis has another length.
        let mut lifetime = Lifetime::new(Expiry::after(now, (2 * HOUR).into()));
        if round % 2 == 0 {
            lifetime = lifetime.fresh_until(Expiry::after(now, HOUR.into()));
        }
        let touch = {
            let (theirs, key) = (theirs.clone(), key.clone());
            tokio::spawn(async move { theirs.touch(&key, lifetime, now).await.unwrap() })
        };
        // Each read takes about as long as one step of the touch.
        for _ in 0..round % 5 {
            ours.get(&key).await.unwrap();
        }
        let filled = ours.fill(living(&key, 1, HOUR).with_ticket(ticket)).await.unwrap();
        touch.await.unwrap();
        assert!(filled, "a touch voids no ticket");
        assert_eq!(value(&ours, &key).await, Some(1), "the older value is back");
    }
}

pub async fn a_reload_replaces_what_another_process_has_stored<B: Backend>(backend: B) {
    let [one, two] = processes(&backend).await;
    one.set("k", 1).await.unwrap();
    assert_eq!(two.get("k").await.unwrap(), Some(1));
    let load = || async { Ok::<_, io::Error>(2) };
    let reload = CallOptions::new().reload();
    let found = two.with(&reload).get_or_load_detailed("k", load).await.unwrap();
    assert_eq!((found.value, found.source), (Some(2), Source::Loaded));
    assert_eq!(two.get("k").await.unwrap(), Some(2));
    assert_eq!(one.with(&shared()).get("k").await.unwrap(), Some(2));
    let failed = two.with(&reload).get_or_load("k", down).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Loader);
    assert_eq!(one.with(&shared()).get("k").await.unwrap(), Some(2));
}

pub async fn a_value_has_one_age_in_all_processes<B: Backend>(backend: B) {
    let [one, two] = processes(&backend).await;
    one.set("k", 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(two.get("k").await.unwrap(), Some(1));
    let recent = CallOptions::new().max_age(Duration::from_millis(300));
    assert_eq!(two.with(&recent).get("k").await.unwrap(), None);
    assert_eq!(two.with(&CallOptions::new().max_age(HOUR)).get("k").await.unwrap(), Some(1));
    let load = || async { Ok::<_, io::Error>(2) };
    assert_eq!(two.with(&recent).get_or_load("k", load).await.unwrap(), 2);
    assert_eq!(one.with(&shared()).get("k").await.unwrap(), Some(2));
}

pub async fn a_validator_is_known_to_all_processes<B: Backend>(backend: B) {
    let [one, two] = processes(&backend).await;
    let load = || async { Ok::<_, io::Error>(Loaded::new(1).validator("\"v1\"")) };
    assert_eq!(one.get_or_load("k", load).await.unwrap(), Some(1));
    one.wait().await.unwrap();
    one.expire("k").await.unwrap();
    let ask = |context: LoadContext<u32>| async move {
        let previous = context.previous.expect("the value of the other process");
        assert_eq!((previous.value, previous.validator.as_deref()), (1, Some("\"v1\"")));
        Ok::<_, io::Error>(Loaded::not_modified())
    };
    assert_eq!(two.get_or_load_with("k", ask).await.unwrap(), Some(1));
    two.wait().await.unwrap();
    assert_eq!(two.stats().loads.not_modified, 1);
    assert_eq!(one.with(&shared()).get("k").await.unwrap(), Some(1), "it is fresh again");
    two.expire("k").await.unwrap();
    assert_eq!(one.with(&shared()).get_or_load_with("k", ask).await.unwrap(), Some(1), "the validator stays");
}
