//! First tiers of several instances over one PostgreSQL: none serves what another one, or anybody
//! else, has changed longer ago than W.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use cache_chain::{ChainCache, Coherence, ErrorKind, Key, Origin, Source, Tier};
use cache_core::{Invalidation, InvalidationSink, Store as _, Ticket};
use integration_tests::{Postgres, SqlKind, SqlPlace, eventually, key, living, never, value};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use store_sql::{PostgresChanges, SqlStore, SqlStoreBuilder};
use store_stretto::StrettoStore;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

type Chain = ChainCache<String>;

const SHORT: Duration = Duration::from_millis(100);

fn builder(url: &str, table: &str) -> SqlStoreBuilder<String, store_sql::DefaultCodec> {
    SqlStore::builder(url).table(table).namespace("n").create_table().announce_changes().sweep_every(None)
}

/// An instance of a service: memory of its own over the database of all.
fn over(store: SqlStore<String>, coherence: Coherence) -> Chain {
    let memory = Tier::new(StrettoStore::new(10_000).unwrap()).name("memory");
    let shared = Tier::new(store).name("postgres").no_breaker();
    ChainCache::builder().tier(memory).tier(shared).coherence(coherence).build().unwrap()
}

async fn instance(place: &SqlPlace) -> Chain {
    let chain = over(builder(&place.url, &place.table).connect().await.unwrap(), Coherence::new());
    trusted(&chain).await;
    chain
}

/// An instance with a short W, on a server of its own.
async fn quick_instance(url: &str, coherence: Coherence) -> Chain {
    let store = builder(url, "t").timeout(Duration::from_millis(500)).connect().await.unwrap();
    let chain = over(store, coherence.heartbeat(SHORT));
    trusted(&chain).await;
    chain
}

async fn trusted(chain: &Chain) {
    eventually("trust", async || chain.stats().coherence.trusted.then_some(())).await;
}

/// Reads until the value is in memory and is served from there.
async fn served_from_memory(chain: &Chain, key: &str) -> String {
    eventually("a hit in memory", async || {
        let found = chain.get_detailed(key).await.unwrap();
        (found.source == Source::Tier("memory".into())).then(|| found.value.unwrap())
    })
    .await
}

/// Waits until the instance has applied all changes that were made before this call.
async fn caught_up(chain: &Chain) {
    let made = Instant::now();
    eventually("a proof", async || {
        let since = made.elapsed();
        (chain.stats().coherence.heartbeat_age? < since).then_some(())
    })
    .await;
}

/// Sets a value, and reads it until it is in memory and the echo of the write has arrived.
async fn set_and_serve(chain: &Chain, key: &str, value: &str) {
    chain.set(key, value.into()).await.unwrap();
    caught_up(chain).await;
    assert_eq!(served_from_memory(chain, key).await, value);
}

fn window(chain: &Chain) -> Duration {
    chain.stats().coherence.window
}

/// Returns how long the instance went on serving `old`.
async fn time_until_changed(chain: &Chain, key: &str, old: &str) -> Duration {
    let changed = Instant::now();
    eventually("the change", async || (chain.get(key).await.unwrap().as_deref() != Some(old)).then_some(())).await;
    changed.elapsed()
}

/// The notices that a stream has applied.
#[derive(Default)]
struct Recorded(Mutex<Vec<Notice>>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Notice {
    Key(Vec<u8>),
    Proven(Instant),
    Other(String),
}

impl InvalidationSink for Recorded {
    fn apply(&self, notice: Invalidation<'_>) {
        let notice = match notice {
            Invalidation::Key(key) => Notice::Key(key.to_vec()),
            Invalidation::Proven(moment) => Notice::Proven(moment),
            other => Notice::Other(format!("{other:?}")),
        };
        self.0.lock().unwrap().push(notice);
    }
}

impl Recorded {
    fn all(&self) -> Vec<Notice> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until the stream has proven a moment after this one.
    async fn proven_since(&self, since: Instant) {
        eventually("a proof", async || {
            let is_later = |notice: &Notice| matches!(notice, Notice::Proven(moment) if *moment > since);
            self.all().iter().any(is_later).then_some(())
        })
        .await;
    }

    /// Returns what was applied, without the proofs, up to now: all changes made before this call
    /// have been announced.
    async fn changes(&self) -> Vec<Notice> {
        self.proven_since(Instant::now()).await;
        self.all().into_iter().filter(|notice| !matches!(notice, Notice::Proven(_))).collect()
    }

    async fn forget(&self) {
        self.changes().await;
        self.0.lock().unwrap().clear();
    }
}

fn everything() -> Notice {
    Notice::Other("Everything".into())
}

fn changed(key: &str) -> Notice {
    Notice::Key(key.into())
}

/// Runs the stream of a store. The task ends with the test.
async fn recorded(store: &SqlStore<String>) -> (Arc<Recorded>, JoinHandle<cache_chain::Error>) {
    let recorded = Arc::new(Recorded::default());
    let run = store.invalidations().unwrap().run(Duration::from_millis(1), Arc::clone(&recorded) as _);
    let task = tokio::spawn(run);
    assert_eq!(recorded.changes().await, [Notice::Other("Begin(\"listen\")".into())]);
    recorded.forget().await;
    (recorded, task)
}

async fn place() -> SqlPlace {
    SqlPlace::of(SqlKind::Postgres).await
}

#[tokio::test]
async fn g2_an_instance_sees_what_others_change() {
    let place = place().await;
    let (a, b) = (instance(&place).await, instance(&place).await);
    assert_eq!(b.stats().coherence.mode, Some("listen"));
    assert_eq!(window(&b), Duration::from_secs(3));

    a.set("ada", "1".into()).await.unwrap();
    assert_eq!(served_from_memory(&b, "ada").await, "1");
    a.set("ada", "2".into()).await.unwrap();
    assert!(time_until_changed(&b, "ada", "1").await < window(&b));
    assert_eq!(served_from_memory(&b, "ada").await, "2");
    a.del("ada").await.unwrap();
    assert!(time_until_changed(&b, "ada", "2").await < window(&b));
    a.set("ada", "3".into()).await.unwrap();
    assert_eq!(served_from_memory(&b, "ada").await, "3");
    a.clear().await.unwrap();
    assert!(time_until_changed(&b, "ada", "3").await < window(&b));

    // Anybody else.
    for change in [
        "DELETE FROM {t}",
        "TRUNCATE {t}",
        "UPDATE {t} SET expires_at = 1",
        "UPDATE {t} SET value = NULL, expires_at = written_at + 60000",
        "UPDATE {t} SET id = '\\x62'",
        "UPDATE {t} SET value = '\\x666f726569676e'",
        "INSERT INTO {t} SELECT namespace, id, full_key, '\\x00', write_id, written_at, expires_at FROM {t} \
         ON CONFLICT (namespace, id) DO UPDATE SET value = excluded.value",
        "SET session_replication_role = replica; DELETE FROM {t}",
    ] {
        a.clear().await.unwrap();
        a.set("ada", "4".into()).await.unwrap();
        assert_eq!(served_from_memory(&b, "ada").await, "4");
        place.execute(change).await;
        assert!(time_until_changed(&b, "ada", "4").await < window(&b), "{change}");
    }
    assert_eq!(b.stats().coherence.epoch, 1);
}

/// Small values are compared when they have been read, and large ones by their heads.
#[tokio::test]
async fn entries_that_have_not_changed_are_confirmed() {
    let place = place().await;
    let chain = instance(&place).await;
    for (key, size) in [("small", 1), ("large", 100_000)] {
        let value = "v".repeat(size);
        set_and_serve(&chain, key, &value).await;
        let before = chain.stats().coherence;
        place.execute("UPDATE {t} SET value = value").await;
        let after = eventually("a check", async || {
            assert_eq!(chain.get(key).await.unwrap().as_deref(), Some(&*value));
            let stats = chain.stats().coherence;
            (stats.checks_unchanged > before.checks_unchanged).then_some(stats)
        })
        .await;
        assert_eq!(after.checks_changed, before.checks_changed, "{key}");
    }
    // A foreign program shortens the lives of both.
    place.execute("UPDATE {t} SET expires_at = written_at + 3600000").await;
    caught_up(&chain).await;
    for key in ["small", "large"] {
        let (_, ttl) = chain.get_with_ttl(key).await.unwrap().unwrap();
        assert!(ttl <= cache_chain::Ttl::After(Duration::from_secs(3600)), "{key}: {ttl:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_after_the_beginning_is_announced() {
    /// Holds the stream up when it begins.
    struct Held(Recorded, tokio::sync::mpsc::UnboundedSender<()>, Mutex<mpsc::Receiver<()>>);

    impl InvalidationSink for Held {
        fn apply(&self, notice: Invalidation<'_>) {
            self.0.apply(notice);
            if matches!(notice, Invalidation::Begin(_)) {
                self.1.send(()).unwrap();
                self.2.lock().unwrap().recv().unwrap();
            }
        }
    }

    let place = place().await;
    let store = builder(&place.url, &place.table).connect().await.unwrap();
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, held) = mpsc::channel();
    let sink = Arc::new(Held(Recorded::default(), begun, Mutex::new(held)));
    let stream = store.invalidations().unwrap().run(SHORT, Arc::clone(&sink) as _);
    let stream = tokio::spawn(stream);
    has_begun.recv().await.unwrap();
    store.set(never(&key("ada"), "1".to_owned(), Ticket::unconditional())).await.unwrap();
    go_on.send(()).unwrap();
    assert_eq!(sink.0.changes().await, [Notice::Other("Begin(\"listen\")".into()), changed("ada")]);
    stream.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moment_is_proven_after_the_changes_before_it() {
    let place = place().await;
    let store = builder(&place.url, &place.table).connect().await.unwrap();
    let (recorded, stream) = recorded(&store).await;
    let writer = |writer: u64| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut committed = Vec::new();
            for number in 0..250 {
                let key = key((writer, number));
                store.set(never(&key, "v".to_owned(), Ticket::unconditional())).await.unwrap();
                committed.push((key, Instant::now()));
            }
            committed
        })
    };
    let writers: Vec<_> = (0..4).map(writer).collect();
    let mut committed: Vec<(Key, Instant)> = Vec::new();
    for writer in writers {
        committed.extend(writer.await.unwrap());
    }
    assert_eq!(recorded.changes().await.len(), committed.len());
    let notices = recorded.all();
    let proofs = notices.iter().filter(|notice| matches!(notice, Notice::Proven(_))).count();
    assert!(proofs > 20, "{proofs} proofs");
    for (key, committed) in committed {
        let announced = notices.iter().position(|notice| *notice == Notice::Key(key.as_bytes().to_vec())).unwrap();
        let is_later = |notice: &Notice| matches!(notice, Notice::Proven(moment) if *moment > committed);
        let proven = notices.iter().position(is_later).unwrap();
        assert!(announced < proven, "{key:?} was announced after its proof");
    }
    stream.abort();
}

#[tokio::test]
async fn what_readers_see_and_deletions_are_announced() {
    let place = place().await;
    let store = builder(&place.url, &place.table).connect().await.unwrap();
    let (recorded, stream) = recorded(&store).await;
    // Markers are announced when they are deleted: that may be a `del` during a load.
    let ticket = store.lease(&key("a")).await.unwrap();
    assert_eq!(store.lease(&key("a")).await.unwrap(), ticket);
    let claim = store.claim(&key("b")).await.unwrap();
    store.release(&key("b"), claim.ticket).await.unwrap();
    store.release_leases(&[(key("a"), ticket)]).await.unwrap();
    assert_eq!(recorded.changes().await, [changed("b"), changed("a")]);
    recorded.forget().await;

    // A fill, the end of its life, the marker that replaces it, and the removal of both.
    let ticket = store.lease(&key("a")).await.unwrap();
    assert!(store.fill(living(&key("a"), "1".to_owned(), Duration::from_secs(60))).await.unwrap());
    assert_eq!(recorded.changes().await, [changed("a")]);
    place.execute("UPDATE {t} SET expires_at = 1").await;
    assert_eq!(recorded.changes().await, [changed("a"), changed("a")]);
    recorded.forget().await;
    assert_ne!(store.lease(&key("a")).await.unwrap(), ticket);
    store.set(living(&key("b"), "1".to_owned(), Duration::from_secs(60))).await.unwrap();
    assert_eq!(recorded.changes().await, [changed("b")]);
    place.execute("UPDATE {t} SET expires_at = 1").await;
    recorded.forget().await;
    store.sweep().await.unwrap();
    assert_eq!(place.rows().await, 0);
    assert_eq!(recorded.changes().await.len(), 2);
    stream.abort();
}

/// While one instance loads a key, another one deletes it. There is only a marker to delete.
#[tokio::test]
async fn g2_a_deletion_during_a_load_is_not_missed() {
    let place = place().await;
    let (a, b) = (instance(&place).await, instance(&place).await);
    let load = || async move {
        b.del("k").await.unwrap();
        Ok::<_, std::io::Error>("old".to_owned())
    };
    assert_eq!(a.get_or_load("k", load).await.unwrap(), "old");
    a.wait().await.unwrap();
    caught_up(&a).await;
    assert_eq!(a.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn keys_are_announced_as_they_are() {
    let place = place().await;
    let store = builder(&place.url, &place.table).connect().await.unwrap();
    let other = builder(&place.url, &place.table).namespace("other").connect().await.unwrap();
    let ((recorded, one), (others, two)) = (recorded(&store).await, recorded(&other).await);
    let keys = [&b"\0\xff\n *:"[..], &[b'k'; 255], &[b'l'; 256], &[b'm'; 3900]];
    for bytes in keys {
        store.set(never(&Key::new(bytes).unwrap(), "v".to_owned(), Ticket::unconditional())).await.unwrap();
    }
    let announced = keys.map(|bytes| Notice::Key(bytes.to_vec()));
    assert_eq!(recorded.changes().await, announced);
    assert_eq!(others.changes().await, []);
    recorded.forget().await;

    // Anybody may send anything.
    for (payload, notices) in [
        ("nonsense", vec![Notice::Other("Unknown".into())]),
        ("", vec![Notice::Other("Unknown".into())]),
        ("n:zz n:616461 other:62", vec![Notice::Other("Unknown".into()), changed("ada")]),
        ("*", vec![everything()]),
    ] {
        place.execute(&format!("SELECT pg_notify('{}', '{payload}')", place.table)).await;
        assert_eq!(recorded.changes().await, notices, "{payload}");
        recorded.forget().await;
    }
    one.abort();
    two.abort();
}

#[tokio::test]
async fn changes_that_do_not_fit_are_announced_as_all_of_their_namespace() {
    let place = place().await;
    let store = builder(&place.url, &place.table).connect().await.unwrap();
    let other = builder(&place.url, &place.table).namespace("other").connect().await.unwrap();
    let chain = instance(&place).await;
    let ((recorded, one), (others, two)) = (recorded(&store).await, recorded(&other).await);
    let name = |number: u32| format!("{number:0>200}");
    let writes = (0..1000).map(|number| never(&key(&*name(number)), "1".to_owned(), Ticket::unconditional()));
    assert!(store.set_many(writes.collect()).await.into_iter().all(|set| set.is_ok()));
    assert_eq!(served_from_memory(&chain, &name(500)).await, "1");
    recorded.forget().await;
    place.execute("UPDATE {t} SET expires_at = 1").await;
    assert!(time_until_changed(&chain, &name(500), "1").await < window(&chain));
    assert_eq!(recorded.changes().await, [everything()]);
    assert_eq!(others.changes().await, []);

    // Not even the namespaces fit.
    recorded.forget().await;
    place
        .execute(
            "INSERT INTO {t} (namespace, id, value, write_id, written_at) \
             SELECT lpad(n::text, 60, '0'), '\\x61', '\\x61', 0, 0 FROM generate_series(1, 1000) AS n",
        )
        .await;
    assert_eq!(recorded.changes().await, [everything()]);
    assert_eq!(others.changes().await, [everything()]);
    one.abort();
    two.abort();
}

#[tokio::test]
async fn instances_that_create_the_table_at_once_announce() {
    let place = place().await;
    // Without triggers, as from an older release.
    place.store::<String>().await;
    for round in 0..4 {
        let connect = |_| {
            let builder = builder(&place.url, &place.table);
            tokio::spawn(async move { builder.connect().await.unwrap() })
        };
        let mut stores = Vec::new();
        for connecting in (0..8).map(connect).collect::<Vec<_>>() {
            stores.push(connecting.await.unwrap());
        }
        let triggers = format!("SELECT count(*) FROM pg_trigger WHERE tgrelid = '{}'::regclass", place.table);
        assert_eq!(place.number(&triggers).await, Some(5));
        let (recorded, stream) = recorded(&stores[0]).await;
        stores[7].set(never(&key("ada"), "1".to_owned(), Ticket::unconditional())).await.unwrap();
        assert_eq!(recorded.changes().await, [changed("ada")]);
        stream.abort();
        // Without the table, or with some of the triggers only.
        let next = if round == 1 { "DROP TRIGGER announce_delete ON {t}" } else { "DROP TABLE {t}" };
        place.execute(next).await;
    }
}

#[tokio::test]
async fn a_table_that_does_not_announce_is_said() {
    let place = place().await;
    place.store::<String>().await;
    let builder = || {
        let builder = SqlStore::<String>::builder(&place.url).table(&place.table).namespace("n");
        builder.sweep_every(None).announce_changes()
    };
    let error = builder().connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
    assert!(error.to_string().contains(".announce_changes()") && error.to_string().contains("README"), "{error}");
    let lazy = builder().connect_lazy().unwrap();
    let recorded = Arc::new(Recorded::default());
    let stream = lazy.invalidations().unwrap().run(SHORT, Arc::clone(&recorded) as _);
    let error = timeout(Duration::from_secs(20), stream).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
    assert_eq!(recorded.all(), []);
    // A store that is not asked to has no stream.
    assert!(place.store::<String>().await.invalidations().is_none());

    // The statements of the README.
    let readme = include_str!("../../store-sql/README.md");
    let after = readme.split("## Changes made by others\n").nth(1).unwrap();
    let triggers = after.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(triggers, include_str!("../../store-sql/sql/postgres_announce.sql"));
    place.execute(&triggers.replace("cache_entries", &place.table)).await;
    builder().connect().await.unwrap();
}

#[tokio::test]
async fn a_trigger_that_goes_away_ends_the_stream() {
    let place = place().await;
    let store = builder(&place.url, &place.table).connect().await.unwrap();
    for change in [
        "DROP TRIGGER announce_insert ON {t}",
        "ALTER TABLE {t} DISABLE TRIGGER announce_delete",
        "ALTER TABLE {t} DISABLE TRIGGER announce_delete; ALTER TABLE {t} ENABLE ALWAYS TRIGGER announce_delete",
        "DROP TABLE {t}",
    ] {
        builder(&place.url, &place.table).connect().await.unwrap();
        let (_, stream) = recorded(&store).await;
        place.execute(change).await;
        let error = timeout(Duration::from_secs(20), stream).await.unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::Backend, "{change}: {error:?}");
        assert!(error.to_string().contains("triggers"), "{change}: {error}");
    }
}

#[tokio::test]
async fn other_databases_say_what_to_do_instead() {
    for kind in [SqlKind::MySql, SqlKind::Sqlite] {
        let place = SqlPlace::of(kind).await;
        for error in [
            place.builder::<String>().announce_changes().connect().await.unwrap_err(),
            SqlStore::<String>::builder(&place.url).namespace("n").announce_changes().connect_lazy().unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
            assert!(error.to_string().contains("`invalidate`"), "{error}");
        }
        assert!(place.store::<String>().await.invalidations().is_none());
    }
}

#[tokio::test]
async fn changes_that_a_lost_connection_hides_are_not_served() {
    let server = Postgres::start().await;
    let (a, b) =
        (quick_instance(&server.url(), Coherence::new()).await, quick_instance(&server.url(), Coherence::new()).await);
    for round in 1..=5 {
        a.set("ada", "1".into()).await.unwrap();
        assert_eq!(served_from_memory(&b, "ada").await, "1");
        // The change is committed when the listeners are gone.
        let lose = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE query LIKE '%cache_heartbeat_%' AND pid <> pg_backend_pid(); DELETE FROM t";
        server.sql(lose).await;
        assert!(time_until_changed(&b, "ada", "1").await < window(&b));
        for chain in [&a, &b] {
            eventually("a new epoch", async || (chain.stats().coherence.epoch > round).then_some(())).await;
            trusted(chain).await;
            assert_eq!(chain.get("ada").await.unwrap(), None);
            let stats = chain.stats().coherence;
            assert_eq!((stats.epoch, stats.ended), (round + 1, round));
        }
    }

    // The connections end with the chains.
    drop((a, b));
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let mut observer = PgConnection::connect(&server.url()).await.unwrap();
    eventually("the end of the connections", async || {
        let others: i64 = sqlx::query_scalar(others).fetch_one(&mut observer).await.unwrap();
        (others == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_the_server_nothing_unproven_is_served() {
    let server = Postgres::start().await;
    let chain = quick_instance(&server.url(), Coherence::new()).await;
    let graceful = quick_instance(&server.url(), Coherence::new().grace(Duration::from_secs(3600))).await;
    for chain in [&chain, &graceful] {
        chain.set("ada", "1".into()).await.unwrap();
    }
    for chain in [&chain, &graceful] {
        caught_up(chain).await;
        assert_eq!(served_from_memory(chain, "ada").await, "1");
    }
    server.stop();
    let stopped = Instant::now();
    let failed = eventually("an error", async || {
        let asked = Instant::now();
        match chain.get("ada").await {
            Ok(value) => {
                assert_eq!(value.as_deref(), Some("1"));
                let age = asked.duration_since(stopped);
                assert!(age <= window(&chain), "served after {age:?}");
                None
            }
            Err(error) => Some(error),
        }
    })
    .await;
    assert!(matches!(failed.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{failed}");
    assert!(!chain.stats().coherence.trusted);
    let found = eventually("grace", async || {
        let found = graceful.get_detailed("ada").await.unwrap();
        found.in_grace.then_some(found)
    })
    .await;
    assert_eq!((found.value.as_deref(), found.source), (Some("1"), Source::Tier("memory".into())));

    server.resume();
    for chain in [&chain, &graceful] {
        trusted(chain).await;
        assert!(chain.stats().coherence.epoch >= 2);
        assert_eq!(served_from_memory(chain, "ada").await, "1");
    }
}

#[tokio::test]
async fn heartbeats_wait_for_no_standby_but_for_commits_that_hang() {
    let server = Postgres::start().await;
    let store = builder(&server.url(), "t").timeout(Duration::from_millis(500)).connect().await.unwrap();
    let (_, stream) = recorded(&store).await;
    server.hold_commits().await;
    let set = || store.set(never(&key("ada"), "1".to_owned(), Ticket::unconditional()));
    let error = eventually("a commit that hangs", async || set().await.err()).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    // The change takes effect later, so nothing can be proven until then.
    let error = timeout(Duration::from_secs(20), stream).await.unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(error.to_string().contains("commits that hang"), "{error}");

    // The commit ends with its connection. The standby is still away.
    eventually("the end of the commit", async || {
        let hanging = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid <> pg_backend_pid()";
        let mut operator = PgConnection::connect(&server.url()).await.unwrap();
        let end = AssertSqlSafe(format!("SELECT count(pg_terminate_backend(pid)) {hanging}"));
        let ended: i64 = sqlx::query_scalar(end).fetch_one(&mut operator).await.unwrap();
        (ended == 0).then_some(())
    })
    .await;
    let (_, stream) = recorded(&store).await;
    assert_eq!(value(&store, &key("ada")).await.as_deref(), Some("1"));
    stream.abort();
}

#[tokio::test]
async fn a_server_that_has_become_a_standby_is_not_trusted() {
    let mut server = Postgres::start().await;
    let chain = quick_instance(&server.url(), Coherence::new()).await;
    set_and_serve(&chain, "ada", "1").await;
    let (_, stream) = recorded(&builder(&server.url(), "t").connect().await.unwrap()).await;
    server.demote();
    let error = timeout(Duration::from_secs(20), stream).await.unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let store = SqlStore::<String>::builder(server.url()).table("t").namespace("n").announce_changes();
    let store = store.sweep_every(None).connect().await.unwrap();
    let stream = store.invalidations().unwrap().run(SHORT, Arc::new(Recorded::default()));
    let error = timeout(Duration::from_secs(20), stream).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
    // The entry is read from the standby.
    eventually("a check", async || {
        let found = chain.get_detailed("ada").await.ok()?;
        assert_eq!(found.value.as_deref(), Some("1"));
        (found.source == Source::Tier("postgres".into())).then_some(())
    })
    .await;
    assert!(!chain.stats().coherence.trusted);
}

#[tokio::test]
async fn a_listener_of_another_server_than_the_store_ends() {
    let (former, current) = (Postgres::start().await, Postgres::start().await);
    // The address leads to one server, then to the other; connections stay where they are.
    let address = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = former.url().replace(&former.port().to_string(), &address.local_addr().unwrap().port().to_string());
    let port = Arc::new(AtomicU16::new(former.port()));
    let target = Arc::clone(&port);
    let forwarding = tokio::spawn(async move {
        while let Ok((mut client, _)) = address.accept().await {
            let mut server = TcpStream::connect(("127.0.0.1", target.load(Ordering::SeqCst))).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    for server in [&former, &current] {
        builder(&server.url(), "t").connect().await.unwrap();
    }
    let chain = quick_instance(&url, Coherence::new()).await;
    set_and_serve(&chain, "ada", "1").await;
    port.store(current.port(), Ordering::SeqCst);
    // The listener stays with the former server, which goes on answering its heartbeats.
    former
        .sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname IS NOT NULL AND query NOT LIKE '%cache_heartbeat_%' AND pid <> pg_backend_pid()",
        )
        .await;
    assert!(time_until_changed(&chain, "ada", "1").await < window(&chain));
    eventually("a new epoch", async || (chain.stats().coherence.epoch == 2).then_some(())).await;
    trusted(&chain).await;
    assert_eq!(chain.get("ada").await.unwrap(), None);
    forwarding.abort();
}

#[tokio::test]
async fn the_listener_needs_no_connection_of_the_applications_pool() {
    let place = place().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&place.url).await.unwrap();
    let store = SqlStore::<String>::on_postgres(pool.clone()).table(&place.table).namespace("n").sweep_every(None);
    let chain = over(store.create_table().announce_changes().connect().await.unwrap(), Coherence::new());
    trusted(&chain).await;
    set_and_serve(&chain, "ada", "1").await;
    // While the application has the only connection, memory is proven nevertheless.
    let _connection = pool.acquire().await.unwrap();
    for _ in 0..3 {
        let mut age = Duration::ZERO;
        eventually("a proof", async || {
            let before = std::mem::replace(&mut age, chain.stats().coherence.heartbeat_age?);
            (age < before).then_some(())
        })
        .await;
    }
    assert_eq!(served_from_memory(&chain, "ada").await, "1");
    assert_eq!(chain.stats().coherence.ended, 0);
}

#[test]
fn a_stream_that_is_dropped_outside_of_a_runtime_does_not_panic() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let place = first.block_on(place());
    let store = first.block_on(builder(&place.url, &place.table).connect()).unwrap();
    let recorded = Arc::new(Recorded::default());
    let mut stream = store.invalidations().unwrap().run(Duration::from_millis(1), Arc::clone(&recorded) as _);
    second.block_on(async {
        let mut proven = pin!(recorded.proven_since(Instant::now()));
        poll_fn(|context| {
            assert!(stream.as_mut().poll(context).is_pending());
            proven.as_mut().poll(context)
        })
        .await;
    });
    drop(second);
    drop(stream);
    let error = cache_core::testkit::block_on(store.invalidations().unwrap().run(SHORT, recorded));
    assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
}

#[tokio::test]
async fn a_database_of_unchecked_text_is_said() {
    let server = Postgres::start().await;
    server.sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0").await;
    let store = builder(&server.url_as("app:hunter2", "ascii"), "t").connect().await.unwrap();
    let stream = store.invalidations().unwrap().run(SHORT, Arc::new(Recorded::default()));
    let error = timeout(Duration::from_secs(20), stream).await.unwrap();
    assert!(error.to_string().contains("SQL_ASCII"), "{error:?}");
}

#[tokio::test]
async fn tiers_above_a_table_of_the_application_follow_it() {
    let place = place().await;
    let pool = PgPool::connect(&place.url).await.unwrap();
    let readme = include_str!("../../store-sql/README.md");
    let after = readme.split("## Changes of your own tables\n").nth(1).unwrap();
    let triggers = after.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    place.execute("CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT NOT NULL)").await;
    place.execute(triggers).await;
    place.execute("INSERT INTO users SELECT n, 'Ada' FROM generate_series(1, 10000) AS n").await;

    let rows = pool.clone();
    let load = move |key: Key| {
        let rows = rows.clone();
        async move {
            let id: i64 = key.as_str().unwrap().parse().unwrap();
            sqlx::query_scalar::<_, String>("SELECT name FROM users WHERE id = $1").bind(id).fetch_optional(&rows).await
        }
    };
    let instance = |changes: PostgresChanges| {
        let memory = Tier::new(StrettoStore::new(10_000).unwrap()).name("memory");
        let origin = Tier::new(Origin::new(load.clone())).invalidations(changes);
        ChainCache::builder().tier(memory).tier(origin).build().unwrap()
    };
    let streams = [
        PostgresChanges::on(pool.clone(), "users_changed").unwrap(),
        PostgresChanges::at(&place.url, "users_changed").unwrap().timeout(Duration::from_secs(5)),
    ];
    for (users, seconds) in streams.map(instance).iter().zip([3, 6]) {
        trusted(users).await;
        assert_eq!(window(users), Duration::from_secs(seconds));
        for (change, after) in [
            ("UPDATE users SET name = 'Grace' WHERE id = 42", Some("Grace")),
            ("UPDATE users SET name = 'Grace'", Some("Grace")),
            ("UPDATE users SET id = id + 100000 WHERE id = 42", None),
            ("DELETE FROM users WHERE id = 42", None),
            ("TRUNCATE users", None),
        ] {
            place.execute("INSERT INTO users VALUES (42, 'Ada') ON CONFLICT (id) DO UPDATE SET name = 'Ada'").await;
            eventually("the user", async || (users.get("42").await.unwrap()? == "Ada").then_some(())).await;
            assert_eq!(served_from_memory(users, "42").await, "Ada");
            place.execute(change).await;
            assert!(time_until_changed(users, "42", "Ada").await < window(users), "{change}");
            assert_eq!(users.get("42").await.unwrap().as_deref(), after, "{change}");
        }
        let stats = users.stats().coherence;
        assert_eq!((stats.unknown, stats.ended), (0, 0));
    }
    for channel in [String::new(), "x".repeat(64), "a\0b".into()] {
        let error = PostgresChanges::on(pool.clone(), channel).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    }
    for url in ["", "mysql://app:s3cret@127.0.0.1/", "postgres://app:s3cret@127.0.0.1:port/"] {
        let error = PostgresChanges::at(url, "users_changed").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        assert!(!integration_tests::shown(&error).contains("s3cret"));
    }
}
