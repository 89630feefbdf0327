//! Loaders that know the previous value.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::key;
use cache_chain::{
    CallOptions, ChainCache, ErrorKind, LoadContext, Loaded, Previous, ReadThrough, ServeStale, Source, Ttl,
};
use cache_core::{
    LocalStore, ManualClock,
    testkit::{MapStore, ScriptedStore},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

type Seen = Arc<Mutex<Vec<Option<(String, Option<Duration>, Option<String>)>>>>;

struct Rig {
    chain: ChainCache<String>,
    memory: MapStore<String>,
    lower: ScriptedStore<MapStore<String>>,
    clock: ManualClock,
    /// The previous values that loads were given.
    seen: Seen,
}

impl Rig {
    fn new() -> Self {
        let clock = ManualClock::new();
        let memory = MapStore::with_clock(clock.shared());
        let lower = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let chain = ChainCache::builder()
            .clock(clock.shared())
            .tier(memory.clone())
            .tier(lower.clone())
            .default_ttl(MINUTE)
            .read_through(ReadThrough::new().stale_for(60 * MINUTE).serve_stale(ServeStale::IfLoadFails))
            .build()
            .unwrap();
        Self { chain, memory, lower, clock, seen: Arc::default() }
    }

    async fn load(&self, loaded: Loaded<String>) -> cache_chain::Result<Option<String>> {
        self.chain.get_or_load_with("k", self.loader(loaded)).await
    }

    fn loader(
        &self,
        loaded: Loaded<String>,
    ) -> impl FnOnce(LoadContext<String>) -> std::future::Ready<io::Result<Loaded<String>>> + Send + use<> {
        let seen = Arc::clone(&self.seen);
        move |LoadContext { key, previous, .. }| {
            assert_eq!(key.as_str(), Some("k"));
            let previous = previous.map(|Previous { value, age, validator, .. }| {
                (value, age, validator.map(|validator| validator.to_string()))
            });
            seen.lock().unwrap().push(previous);
            std::future::ready(Ok(loaded))
        }
    }

    fn last_seen(&self) -> Option<(String, Option<Duration>, Option<String>)> {
        self.seen.lock().unwrap().last().cloned().expect("a load")
    }
}

#[allow(clippy::unnecessary_wraps, reason = "it stands where an option is compared")]
fn some(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[tokio::test]
async fn a_loader_gets_the_key_and_the_previous_value_with_age_and_validator() {
    let rig = Rig::new();
    assert_eq!(rig.load(Loaded::new("one".to_owned()).validator("v1")).await.unwrap(), some("one"));
    assert_eq!(rig.last_seen(), None);
    rig.clock.advance(MINUTE + SECOND);
    assert_eq!(rig.load(Loaded::new("two".to_owned())).await.unwrap(), some("two"));
    assert_eq!(rig.last_seen(), Some(("one".to_owned(), Some(MINUTE + SECOND), some("v1"))));
    rig.clock.advance(MINUTE);
    assert_eq!(rig.load(Loaded::absent()).await.unwrap(), None);
    assert_eq!(rig.last_seen(), Some(("two".to_owned(), Some(MINUTE), None)), "a new value has no old validator");
    rig.clock.advance(MINUTE);
    assert_eq!(rig.load(Loaded::new("three".to_owned())).await.unwrap(), some("three"));
    assert_eq!(rig.last_seen(), None, "there was none");
}

#[tokio::test]
async fn a_value_that_is_not_modified_gets_a_new_life() {
    let rig = Rig::new();
    rig.load(Loaded::new("one".to_owned()).validator("v1")).await.unwrap();
    rig.clock.advance(MINUTE);
    assert_eq!(rig.load(Loaded::not_modified()).await.unwrap(), some("one"));
    let found = rig.chain.get_detailed("k").await.unwrap();
    assert_eq!((found.value, found.age, found.stale), (some("one"), Some(Duration::ZERO), false));
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap().unwrap().1, Ttl::After(MINUTE));
    rig.chain.wait().await.unwrap();
    for entry in [LocalStore::get(&rig.memory, &key("k")), LocalStore::get(rig.lower.inner(), &key("k"))] {
        assert_eq!(entry.unwrap().validator().map(|validator| &**validator), Some("v1"), "the validator stays");
    }
    rig.clock.advance(MINUTE);
    assert_eq!(rig.load(Loaded::not_modified().ttl(SECOND).validator("v2")).await.unwrap(), some("one"));
    assert_eq!(rig.last_seen(), Some(("one".to_owned(), Some(MINUTE), some("v1"))));
    assert_eq!(rig.chain.get_with_ttl("k").await.unwrap().unwrap().1, Ttl::After(SECOND));
    rig.clock.advance(SECOND);
    rig.load(Loaded::new("two".to_owned())).await.unwrap();
    assert_eq!(rig.last_seen().unwrap().2, some("v2"));
    let stats = rig.chain.stats().loads;
    assert_eq!((stats.started, stats.not_modified), (4, 2));
}

#[tokio::test]
async fn without_a_previous_value_nothing_can_be_unmodified() {
    let rig = Rig::new();
    let error = rig.load(Loaded::not_modified()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("`LoadContext::previous` is `Some`"), "{error}");
    assert_eq!(rig.chain.get("k").await.unwrap(), None);
    assert_eq!(rig.chain.stats().loads.not_modified, 0);
}

#[tokio::test]
async fn the_previous_value_of_a_lower_tier_is_given_as_well() {
    let rig = Rig::new();
    rig.load(Loaded::new("one".to_owned()).validator("v1")).await.unwrap();
    rig.chain.wait().await.unwrap();
    drop(LocalStore::remove(&rig.memory, &key("k")).unwrap());
    rig.clock.advance(MINUTE);
    assert_eq!(rig.load(Loaded::not_modified()).await.unwrap(), some("one"));
    assert_eq!(rig.last_seen(), Some(("one".to_owned(), Some(MINUTE), some("v1"))));
    let found = rig.chain.get_detailed("k").await.unwrap();
    assert_eq!((found.value, found.source), (some("one"), Source::Tier("L1 map".into())));
}

#[tokio::test]
async fn reloads_and_calls_for_a_recent_value_know_the_fresh_one() {
    let rig = Rig::new();
    rig.load(Loaded::new("one".to_owned()).validator("v1")).await.unwrap();
    rig.clock.advance(SECOND);
    for options in [CallOptions::new().reload(), CallOptions::new().max_age(Duration::from_millis(1))] {
        let chain = rig.chain.with(&options);
        assert_eq!(chain.get_or_load_with("k", rig.loader(Loaded::not_modified())).await.unwrap(), some("one"));
        assert_eq!(rig.last_seen(), Some(("one".to_owned(), Some(SECOND), some("v1"))));
        rig.clock.advance(SECOND);
    }
}

#[tokio::test]
async fn a_batch_may_find_values_unmodified() {
    let rig = Rig::new();
    rig.chain.set("a", "one".to_owned()).await.unwrap();
    rig.clock.advance(MINUTE);
    let load = |keys: Vec<&'static str>| async move {
        let news = |key| if key == "a" { Loaded::not_modified() } else { Loaded::new("new".to_owned()) };
        Ok::<_, io::Error>(keys.into_iter().map(move |key| (key, news(key))))
    };
    let found = rig.chain.get_or_load_many(["a", "b"], load).await.unwrap();
    assert_eq!(found, [some("one"), some("new")]);
    assert_eq!(rig.chain.get("a").await.unwrap(), some("one"));
}

#[tokio::test]
async fn a_validator_has_a_length() {
    let rig = Rig::new();
    for (length, is_accepted) in [(0, false), (1, true), (1024, true), (1025, false)] {
        let loaded = Loaded::new("one".to_owned()).validator("v".repeat(length));
        let result = rig.load(loaded).await;
        assert_eq!(
            result.map_err(|error| error.kind()),
            if is_accepted { Ok(some("one")) } else { Err(ErrorKind::InvalidInput) }
        );
        rig.chain.del("k").await.unwrap();
    }
}

#[test]
fn debug_shows_no_value() {
    let loaded = Loaded::new("secret").validator("secret");
    assert!(!format!("{loaded:?}").contains("secret"));
}
