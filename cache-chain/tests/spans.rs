//! The spans of a chain.
#![cfg(feature = "tracing")]

use std::{
    fmt::Write as _,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};

use cache_chain::{ChainBuilder, ChainCache, ErrorKind, ManualClock, ReadThrough, Tier};
use cache_core::testkit::{MapStore, Operation, ScriptedStore};
use tracing::{
    Event, Instrument as _, Metadata, Subscriber,
    field::{Field, Visit},
    info_span,
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};

/// Collects the spans of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The id of a span is one more than its place.
    spans: Vec<Spanned>,
    entered: Vec<Id>,
}

struct Spanned {
    name: &'static str,
    parent: Option<Id>,
    fields: Text,
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut state = self.0.lock().unwrap();
        let mut fields = Text::default();
        span.record(&mut fields);
        let parent = if span.is_contextual() { state.entered.last().cloned() } else { span.parent().cloned() };
        state.spans.push(Spanned { name: span.metadata().name(), parent, fields });
        Id::from_u64(state.spans.len() as u64)
    }

    fn record(&self, id: &Id, record: &Record<'_>) {
        let mut state = self.0.lock().unwrap();
        let at = usize::try_from(id.into_u64()).unwrap() - 1;
        record.record(&mut state.spans[at].fields);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, id: &Id) {
        self.0.lock().unwrap().entered.push(id.clone());
    }

    fn exit(&self, id: &Id) {
        let left = self.0.lock().unwrap().entered.pop();
        assert_eq!(left.as_ref(), Some(id), "spans are left in the reverse order");
    }
}

impl Log {
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let guard = tracing::subscriber::set_default(log.clone());
        (log, guard)
    }

    /// Takes the spans, each as its path and its fields.
    fn take(&self) -> Vec<String> {
        let spans = std::mem::take(&mut self.0.lock().unwrap().spans);
        spans.iter().map(|span| format!("{}:{}", path(&spans, span), span.fields.0)).collect()
    }
}

fn path(spans: &[Spanned], span: &Spanned) -> String {
    match &span.parent {
        Some(parent) => {
            let parent = &spans[usize::try_from(parent.into_u64()).unwrap() - 1];
            format!("{} > {}", path(spans, parent), span.name)
        }
        None => span.name.to_owned(),
    }
}

type Remote = ScriptedStore<MapStore<String>>;

fn chain(trace: impl FnOnce(ChainBuilder<String>) -> ChainBuilder<String>) -> (ChainCache<String>, Remote) {
    let remote = ScriptedStore::new(MapStore::new());
    let builder = ChainCache::builder()
        .tier(Tier::new(MapStore::new()).name("memory"))
        .tier(Tier::new(remote.clone()).name("remote"));
    (trace(builder).build().unwrap(), remote)
}

fn traced() -> (ChainCache<String>, Remote) {
    chain(|builder| builder.tracing("users"))
}

const LOOKUP: &str = r#"request > cache_lookup: cache="users" keys=1"#;

fn call(within: &str, operation: &str, outcome: &str) -> String {
    format!(
        r#"request > {within} > cache_tier_call: cache="users" tier="remote" operation="{operation}" keys=1 outcome={outcome}"#
    )
}

#[tokio::test]
async fn a_lookup_below_memory_has_a_span_in_that_of_its_caller_and_a_hit_has_none() {
    let (chain, _remote) = traced();
    chain.set("k", "secret".to_owned()).await.unwrap();
    let (log, _guard) = Log::start();
    chain.get("k").await.unwrap();
    chain.get_detailed("k").await.unwrap();
    chain.get_or_load("k", || async { Ok::<_, io::Error>(None) }).await.unwrap();
    assert_eq!(log.take(), [] as [String; 0], "hits in memory");

    let get = async {
        // The second one joins the lookup of the first.
        let (first, second) = tokio::join!(chain.get("none"), chain.get("none"));
        assert_eq!((first.unwrap(), second.unwrap()), (None, None));
    };
    get.instrument(info_span!("request")).await;
    let spans = log.take();
    assert_eq!(spans.len(), 3, "{spans:#?}");
    assert_eq!(spans[1], format!(r#"{LOOKUP} outcome="miss""#));
    assert_eq!(spans[2], call("cache_lookup", "get", r#""ok""#));
}

#[tokio::test]
async fn a_hit_in_another_tier_names_the_tier() {
    let (chain, _remote) = traced();
    chain.set("k", "secret".to_owned()).await.unwrap();
    let other = chain.with(&cache_chain::CallOptions::new().skip_read("memory"));
    let (log, _guard) = Log::start();
    other.get("k").instrument(info_span!("request")).await.unwrap();
    let spans = log.take();
    assert_eq!(spans[1], format!(r#"{LOOKUP} tier="remote" outcome="hit""#), "{spans:#?}");
}

#[tokio::test]
async fn a_load_encloses_its_calls_and_the_loader() {
    let (chain, _remote) = traced();
    let (log, _guard) = Log::start();
    let load = || async { Ok::<_, io::Error>(Some("secret".to_owned())) }.instrument(info_span!("query"));
    chain.get_or_load("k", load).instrument(info_span!("request")).await.unwrap();
    chain.wait().await.unwrap();
    let spans = log.take();
    let load = r#"request > cache_load: cache="users" keys=1 outcome="loaded""#;
    assert!(spans.contains(&load.to_owned()), "{spans:#?}");
    assert!(spans.contains(&"request > cache_load > query:".to_owned()), "{spans:#?}");
    assert!(spans.contains(&call("cache_load", "lease", r#""ok""#)), "{spans:#?}");
    // Nobody waits for the fill.
    let fill = call("cache_load", "fill", r#""ok""#).replace("request > cache_load > ", "");
    assert!(spans.contains(&fill), "{spans:#?}");

    let load = || async { Err::<Option<String>, _>(io::Error::other("secret")) };
    chain.get_or_load("other", load).instrument(info_span!("request")).await.unwrap_err();
    let spans = log.take();
    let load = r#"request > cache_load: cache="users" keys=1 outcome="error" error=Loader"#;
    assert!(spans.contains(&load.to_owned()), "{spans:#?}");
    assert!(!spans.concat().contains("secret"), "{spans:#?}");
}

#[tokio::test]
async fn a_write_encloses_its_calls() {
    let (chain, remote) = traced();
    let (log, _guard) = Log::start();
    chain.set("k", "secret".to_owned()).instrument(info_span!("request")).await.unwrap();
    let spans = log.take();
    let write = r#"request > cache_write: cache="users" operation="set" keys=1 outcome="ok""#;
    assert!(spans.contains(&write.to_owned()), "{spans:#?}");
    assert!(spans.contains(&call("cache_write", "set", r#""ok""#)), "{spans:#?}");
    assert!(!spans.concat().contains("secret"), "{spans:#?}");

    remote.fail(Operation::Del, ErrorKind::Unavailable);
    chain.del("k").instrument(info_span!("request")).await.unwrap_err();
    let spans = log.take();
    let write = r#"request > cache_write: cache="users" operation="del" keys=1 outcome="error" error=Unavailable"#;
    assert!(spans.contains(&write.to_owned()), "{spans:#?}");
    assert!(spans.contains(&call("cache_write", "del", r#""error" error=Unavailable"#)), "{spans:#?}");
}

#[tokio::test]
async fn batches_have_one_span() {
    let (chain, _remote) = traced();
    let (log, _guard) = Log::start();
    chain.get_many(["a", "b"]).instrument(info_span!("request")).await.unwrap();
    let spans = log.take();
    assert_eq!(spans.len(), 3, "{spans:#?}");
    assert_eq!(spans[1], r#"request > cache_lookup: cache="users" keys=2 outcome="miss""#, "{spans:#?}");
    let load = |ids: Vec<&'static str>| async move {
        Ok::<_, io::Error>(ids.into_iter().map(|id| (id, id.to_owned())).collect::<Vec<_>>())
    };
    chain.get_or_load_many(["a", "b"], load).instrument(info_span!("request")).await.unwrap();
    let spans = log.take();
    let loads: Vec<_> = spans.iter().filter(|span| span.contains("cache_load:")).collect();
    assert_eq!(loads.len(), 1, "{spans:#?}");
    assert_eq!(loads[0], r#"request > cache_load: cache="users" keys=2 outcome="loaded""#, "{spans:#?}");

    let fails = |_: Vec<&'static str>| async { Err::<Vec<(&str, String)>, _>(io::Error::other("secret")) };
    chain.get_or_load_many(["c", "d"], fails).instrument(info_span!("request")).await.unwrap_err();
    let load = r#"request > cache_load: cache="users" keys=2 outcome="error" error=Loader"#;
    let spans = log.take();
    assert!(spans.contains(&load.to_owned()), "{spans:#?}");
}

#[tokio::test]
async fn contains_has_the_span_of_a_lookup() {
    let (chain, _remote) = traced();
    let (log, _guard) = Log::start();
    chain.contains("none").instrument(info_span!("request")).await.unwrap();
    let spans = log.take();
    assert_eq!(spans[1], format!(r#"{LOOKUP} outcome="miss""#), "{spans:#?}");
    assert_eq!(spans[2], call("cache_lookup", "get", r#""ok""#));
}

/// Otherwise the span of a request that gets a stale value at once would last as long as the load.
#[tokio::test]
async fn a_refresh_that_nobody_waits_for_is_not_within_the_span_of_its_caller() {
    let clock = ManualClock::new();
    let chain = ChainCache::builder()
        .clock(clock.shared())
        .tier(MapStore::with_clock(clock.shared()))
        .read_through(ReadThrough::new().stale_for(Duration::from_secs(60)))
        .tracing("users")
        .build()
        .unwrap();
    chain.set_with_ttl("k", "old".to_owned(), Duration::from_secs(1)).await.unwrap();
    clock.advance(Duration::from_secs(2));
    let (log, _guard) = Log::start();
    let load = || async { Ok::<_, io::Error>(Some("new".to_owned())) };
    let stale = chain.get_or_load("k", load).instrument(info_span!("request")).await.unwrap();
    assert_eq!(stale.as_deref(), Some("old"));
    while chain.stats().loads.loaded == 0 {
        tokio::task::yield_now().await;
    }
    chain.wait().await.unwrap();
    let spans = log.take();
    assert!(spans.contains(&r#"cache_load: cache="users" keys=1 outcome="loaded""#.to_owned()), "{spans:#?}");
}

/// A subscriber that panics fails the call that it was told of, and no other.
#[tokio::test]
async fn a_subscriber_that_panics_leaves_nothing_behind() {
    let (chain, _remote) = traced();
    chain.set("k", "v".to_owned()).await.unwrap();
    let skip = cache_chain::CallOptions::new().skip_read("memory");
    for _ in 0..100 {
        let _guard = tracing::subscriber::set_default(Panics);
        let polled = |call: &mut dyn FnMut()| catch_unwind(AssertUnwindSafe(call)).is_err();
        let mut context = Context::from_waker(Waker::noop());
        assert!(polled(&mut || drop(pin!(chain.get("none")).poll(&mut context))));
        let load = || async { Ok::<_, io::Error>(None) };
        assert!(polled(&mut || drop(pin!(chain.get_or_load("other", load)).poll(&mut context))));
    }
    assert_eq!(chain.get("none").await.unwrap(), None);
    assert_eq!(chain.get_or_load("other", || async { Ok::<_, io::Error>(None) }).await.unwrap(), None);
    assert_eq!(chain.with(&skip).get("k").await.unwrap().as_deref(), Some("v"));
}

struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        panic!("no span of the name {}", span.metadata().name())
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn keys_are_shown_only_if_that_is_asked_for() {
    let (chain, _remote) = traced();
    let (log, _guard) = Log::start();
    chain.get("ada").await.unwrap();
    let spans = log.take();
    assert!(!spans.is_empty() && !spans.concat().contains("ada"), "{spans:#?}");

    let (shown, _remote) = self::chain(|builder| builder.tracing_with_keys("users"));
    shown.get("ada").await.unwrap();
    let spans = log.take();
    assert!(spans[0].contains(" key=ada "), "{spans:#?}");

    let (untraced, _remote) = self::chain(|builder| builder);
    untraced.get("ada").await.unwrap();
    assert_eq!(log.take(), [] as [String; 0]);
}
