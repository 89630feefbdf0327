//! `explain`.

use std::{io, time::Duration};

use cache_chain::{
    Action, Breaker, BreakerState, ChainCache, Decision, ErrorKind, Held, ReadThrough, ServeStale, Tier, Trust, Ttl,
};
use cache_core::{
    Entry, Expiry, Key, ManualClock, Store, Ticket, Write,
    testkit::{MapStore, Operation, ScriptedStore},
};
use tokio::sync::oneshot;

const MINUTE: Duration = Duration::from_secs(60);

/// What a tier has of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Nothing,
    Fresh,
    Stale,
    Expired,
    Absent,
    Undecodable,
    Failing,
    BreakerOpen,
}

const IN_MEMORY: [State; 5] = [State::Nothing, State::Fresh, State::Stale, State::Expired, State::Absent];
const REMOTE: [State; 8] = [
    State::Nothing,
    State::Fresh,
    State::Stale,
    State::Expired,
    State::Absent,
    State::Undecodable,
    State::Failing,
    State::BreakerOpen,
];

struct Rig {
    clock: ManualClock,
    memory: MapStore<String>,
    remote: ScriptedStore<MapStore<String>>,
    chain: ChainCache<String>,
}

impl Rig {
    async fn of(in_memory: State, remotely: State, serve_stale: ServeStale) -> Self {
        let clock = ManualClock::new();
        let memory = MapStore::with_clock(clock.shared());
        let remote = ScriptedStore::new(MapStore::with_clock(clock.shared()));
        let chain = ChainCache::builder()
            .tier(Tier::new(memory.clone()).name("memory"))
            .tier(Tier::new(remote.clone()).name("remote").breaker(Breaker::new().failures(2)))
            .read_through(ReadThrough::new().stale_for(10 * MINUTE).serve_stale(serve_stale))
            .clock(clock.shared())
            .build()
            .unwrap();
        let rig = Self { clock, memory, remote, chain };
        rig.put(&rig.memory, in_memory, "of memory").await;
        rig.put(rig.remote.inner(), remotely, "of remote").await;
        rig.clock.advance(2 * MINUTE);
        match remotely {
            State::Undecodable => rig.remote.fail(Operation::Get, ErrorKind::Codec),
            State::Failing | State::BreakerOpen => rig.remote.fail(Operation::Get, ErrorKind::Unavailable),
            _ => {}
        }
        if remotely == State::BreakerOpen {
            for _ in 0..2 {
                rig.chain.get("other").await.unwrap_err();
            }
        }
        rig
    }

    async fn put(&self, store: &MapStore<String>, state: State, value: &str) {
        let at = |minutes| Expiry::after(cache_core::Clock::now(&self.clock), Ttl::After(minutes * MINUTE));
        let entry = match state {
            State::Fresh => Entry::new(value.to_owned(), at(10)),
            State::Stale => Entry::new(value.to_owned(), at(10)).fresh_until(at(1)),
            State::Expired => Entry::new(value.to_owned(), at(1)),
            State::Absent => Entry::absent(at(10)),
            _ => return,
        };
        store.set(Write::new(Key::new("k").unwrap(), entry, Ticket::unconditional())).await.unwrap();
    }

    /// Loads a value, or fails, and returns what the call returns.
    async fn get_or_load(&self, fails: bool) -> cache_chain::Result<Option<String>> {
        self.chain
            .get_or_load("k", move || async move {
                if fails { Err(io::Error::other("no value")) } else { Ok(Some("loaded".to_owned())) }
            })
            .await
    }
}

fn value_of(tier: &str, state: State) -> Option<String> {
    (state != State::Absent).then(|| format!("of {tier}"))
}

/// Checks that a read has done what the decision says.
fn check(
    decision: &Decision,
    (in_memory, remotely): (State, State),
    read: &cache_chain::Result<Option<String>>,
    loaded: &cache_chain::Result<Option<String>>,
) {
    let context = || format!("memory {in_memory:?}, remote {remotely:?}: {decision}, but {read:?}");
    match (&decision.action, read) {
        (Action::Serve { tier } | Action::ServeStale { tier }, Ok(value)) => {
            let state = if tier == "memory" { in_memory } else { remotely };
            assert_eq!(*value, value_of(tier, state), "{}", context());
        }
        (Action::Miss, Ok(value)) => assert_eq!(*value, None, "{}", context()),
        (Action::Load, read) => assert_eq!(format!("{read:?}"), format!("{loaded:?}"), "{}", context()),
        (Action::Fail(kind), Err(error)) => assert_eq!(*kind, error.kind(), "{}", context()),
        _ => panic!("{}", context()),
    }
}

#[tokio::test(start_paused = true)]
async fn reads_do_what_explain_says() {
    for in_memory in IN_MEMORY {
        for remotely in REMOTE {
            let rig = Rig::of(in_memory, remotely, ServeStale::AtOnce).await;
            let explanation = rig.chain.explain("k").await.unwrap();
            let got = rig.chain.get("k").await;
            check(&explanation.get, (in_memory, remotely), &got, &Ok(None));

            for serve_stale in [ServeStale::AtOnce, ServeStale::After(MINUTE), ServeStale::IfLoadFails] {
                let rig = Rig::of(in_memory, remotely, serve_stale).await;
                let decision = rig.chain.explain("k").await.unwrap().get_or_load;
                let loaded = rig.get_or_load(false).await;
                check(&decision, (in_memory, remotely), &loaded, &Ok(Some("loaded".to_owned())));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_has_just_failed_is_not_repeated() {
    let rig = Rig::of(State::Stale, State::Nothing, ServeStale::IfLoadFails).await;
    let before = rig.chain.explain("k").await.unwrap().get_or_load;
    assert_eq!(before.action, Action::Load);
    assert_eq!(rig.get_or_load(true).await.unwrap().as_deref(), Some("of memory"));
    let after = rig.chain.explain("k").await.unwrap().get_or_load;
    assert_eq!(after.action, Action::ServeStale { tier: "memory".to_owned() }, "{}", after.reason);
    assert_eq!(rig.get_or_load(false).await.unwrap().as_deref(), Some("of memory"));
}

#[tokio::test(start_paused = true)]
async fn explain_changes_nothing() {
    for remotely in REMOTE {
        let rig = Rig::of(State::Nothing, remotely, ServeStale::AtOnce).await;
        let stats = format!("{:?}", rig.chain.stats());
        let calls = rig.remote.calls().len();
        for _ in 0..3 {
            rig.chain.explain("k").await.unwrap();
        }
        rig.chain.wait().await.unwrap();
        let calls = rig.remote.calls().split_off(calls);
        assert!(!calls.is_empty(), "the tier is asked, also if its breaker is open");
        let is_read = |call: &cache_core::testkit::Call| matches!(call.operation, Operation::Get | Operation::Wait);
        assert!(calls.iter().all(is_read), "{calls:?}");
        assert_eq!(format!("{:?}", rig.chain.stats()), stats, "{remotely:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tier_is_described() {
    let rig = Rig::of(State::Stale, State::BreakerOpen, ServeStale::AtOnce).await;
    let explanation = rig.chain.explain("k").await.unwrap();
    let [memory, remote] = &explanation.tiers[..] else { panic!("two tiers") };
    assert_eq!((&*memory.name, memory.trust, memory.breaker), ("memory", Trust::Trusted, None));
    assert!(matches!(memory.held, Held::Value));
    assert_eq!(memory.fresh_for, Some(Ttl::After(Duration::ZERO)));
    assert_eq!(memory.ttl, Some(Ttl::After(8 * MINUTE)));
    assert_eq!(remote.breaker, Some(BreakerState::Open));
    assert!(matches!(&remote.held, Held::Unknown(error) if error.kind() == ErrorKind::Unavailable));
    let text = explanation.to_string();
    assert!(text.starts_with("memory: a value, stale, expires in 480s\nremote: unknown ("), "{text}");
    assert!(
        text.contains("breaker open\nget: returns an error of kind Unavailable: circuit breaker open for tier remote"),
        "{text}"
    );
    assert!(
        text.contains("get_or_load: returns the stale value of memory: the value in memory is stale; a new one"),
        "{text}"
    );
    assert!(!text.contains("of memory\n") && !format!("{explanation:?}").contains("of memory\""), "no value: {text}");
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_delete_has_left_is_deleted_by_the_next_read() {
    for heals in [false, true] {
        let rig = Rig::of(State::Nothing, State::Fresh, ServeStale::AtOnce).await;
        rig.remote.fail(Operation::Del, ErrorKind::Unavailable);
        rig.chain.del("k").await.unwrap_err();
        let explanation = rig.chain.explain("k").await.unwrap();
        assert_eq!(explanation.tiers[1].trust, Trust::AwaitsDelete);
        assert!(matches!(explanation.tiers[1].held, Held::Value));
        assert_eq!(explanation.get.action, Action::Repair { tier: "remote".to_owned() }, "{}", explanation.get.reason);
        if heals {
            rig.remote.heal();
            assert_eq!(rig.chain.get("k").await.unwrap(), None);
        } else {
            assert_eq!(rig.chain.get("k").await.unwrap_err().kind(), ErrorKind::Unavailable);
            // The deletion has just been tried.
            let explanation = rig.chain.explain("k").await.unwrap();
            assert_eq!(explanation.get.action, Action::Fail(ErrorKind::Unavailable), "{}", explanation.get.reason);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_fails_is_not_repaired() {
    let rig = Rig::of(State::Nothing, State::Fresh, ServeStale::AtOnce).await;
    for operation in [Operation::Del, Operation::Get] {
        rig.remote.fail(operation, ErrorKind::Backend);
    }
    rig.chain.del("k").await.unwrap_err();
    let explanation = rig.chain.explain("k").await.unwrap();
    assert_eq!(explanation.get.action, Action::Fail(ErrorKind::Backend), "{explanation}");
    assert_eq!(rig.chain.get("k").await.unwrap_err().kind(), ErrorKind::Backend);
}

#[tokio::test(start_paused = true)]
async fn what_is_passed_over_is_named() {
    let rig = Rig::of(State::Nothing, State::Undecodable, ServeStale::AtOnce).await;
    let reason = rig.chain.explain("k").await.unwrap().get.reason;
    assert_eq!(reason, "no tier holds a value that may be served; remote: what it holds does not decode");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_lets_a_probe_through() {
    let rig = Rig::of(State::Nothing, State::Fresh, ServeStale::AtOnce).await;
    rig.remote.fail(Operation::Get, ErrorKind::Unavailable);
    for _ in 0..2 {
        rig.chain.get("other").await.unwrap_err();
    }
    rig.remote.heal();
    let refused = rig.chain.explain("k").await.unwrap();
    assert_eq!(refused.get.action, Action::Fail(ErrorKind::Unavailable), "{}", refused.get.reason);
    rig.chain.get("k").await.unwrap_err();
    tokio::time::advance(MINUTE).await;
    let probed = rig.chain.explain("k").await.unwrap();
    assert_eq!(probed.tiers[1].breaker, Some(BreakerState::Open));
    assert_eq!(probed.get.action, Action::Serve { tier: "remote".to_owned() }, "{}", probed.get.reason);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("of remote"));
}

#[tokio::test(start_paused = true)]
async fn a_load_in_progress_is_joined() {
    for in_memory in [State::Nothing, State::Stale] {
        joined(Rig::of(in_memory, State::Nothing, ServeStale::IfLoadFails).await).await;
    }
}

async fn joined(rig: Rig) {
    let (began, has_begun) = oneshot::channel();
    let (end, ends) = oneshot::channel();
    let load = || async move {
        began.send(()).unwrap();
        ends.await.unwrap();
        Ok::<_, io::Error>(None::<String>)
    };
    let chain = rig.chain.clone();
    let loading = tokio::spawn(async move { chain.get_or_load("k", load).await });
    has_begun.await.unwrap();
    assert_eq!(rig.chain.explain("k").await.unwrap().get_or_load.action, Action::Join);
    end.send(()).unwrap();
    loading.await.unwrap().unwrap();
}

/// As [`reads_do_what_explain_says`], for a tier that answers late.
#[tokio::test(start_paused = true)]
async fn a_tier_gets_the_time_that_a_read_gives_it() {
    let (memory, remote) = (MapStore::new(), ScriptedStore::new(MapStore::<String>::new()));
    remote
        .set(Write::new(Key::new("k").unwrap(), Entry::new("v".to_owned(), Expiry::Never), Ticket::unconditional()))
        .await
        .unwrap();
    remote.at_every_step(|_, _| tokio::time::sleep(Duration::from_millis(400)));
    let chain = ChainCache::builder().tier(memory).tier(Tier::new(remote).name("remote"));
    let chain = chain.timeout(Duration::from_millis(500)).build().unwrap();
    let decision = chain.explain("k").await.unwrap().get;
    assert_eq!(decision.action, Action::Fail(ErrorKind::Timeout), "{}", decision.reason);
    assert_eq!(chain.get("k").await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_an_error() {
    let rig = Rig::of(State::Nothing, State::Nothing, ServeStale::AtOnce).await;
    assert_eq!(rig.chain.explain("").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}
