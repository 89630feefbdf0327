//! A COMMIT that hangs: what removes the key waits for it, and other keys do not.

use std::time::Duration;

use cache_core::{Entry, ErrorKind, Key, Result, Store as _, Ticket};
use integration_tests::{MariaDb, Postgres, all, eventually, key, living, never, void};
use sqlx::{Connection as _, Executor as _, PgConnection};
use store_sql::SqlStore;

const SOON: Duration = Duration::from_millis(500);

/// Longer than any wait here on a busy machine.
const PATIENT: Duration = Duration::from_secs(60);

/// A write that must leave the key absent.
#[derive(Clone, Copy, Debug)]
enum Removal {
    Del,
    DelMany,
    Take,
    Clear,
    SetWithVoidTicket,
    SetManyWithVoidTickets,
    SetOfEndedLife,
}

const REMOVALS: [Removal; 7] = [
    Removal::Del,
    Removal::DelMany,
    Removal::Take,
    Removal::Clear,
    Removal::SetWithVoidTicket,
    Removal::SetManyWithVoidTickets,
    Removal::SetOfEndedLife,
];

impl Removal {
    async fn run(self, store: &SqlStore<u64>, keys: &[Key]) -> Result<()> {
        let each = |results: Vec<Result<()>>| results.into_iter().collect();
        match self {
            Self::Del => store.del(&keys[0]).await,
            Self::DelMany => each(store.del_many(keys).await),
            Self::Take => store.take(&keys[0]).await.map(drop),
            Self::Clear => store.clear().await,
            Self::SetWithVoidTicket => store.set(never(&keys[0], 2, void())).await,
            Self::SetManyWithVoidTickets => {
                each(store.set_many(keys.iter().map(|key| never(key, 2, void())).collect()).await)
            }
            Self::SetOfEndedLife => store.set(living(&keys[0], 2, Duration::ZERO)).await,
        }
    }
}

async fn store(url: &str, namespace: &str, deadline: Duration) -> SqlStore<u64> {
    let builder = SqlStore::builder(url).namespace(namespace).create_table().sweep_every(None);
    builder.timeout(deadline).connect().await.unwrap()
}

/// Stores of one namespace for each removal: one that gives up soon, and a patient one. In every
/// other namespace there is a value that is going to be replaced.
async fn stores(url: &str) -> Vec<(Removal, SqlStore<u64>, SqlStore<u64>)> {
    let mut stores = Vec::new();
    for (at, removal) in REMOVALS.into_iter().enumerate() {
        for present in [false, true] {
            let namespace = format!("n{at}-{present}");
            let (quick, patient) = (store(url, &namespace, SOON).await, store(url, &namespace, PATIENT).await);
            if present {
                patient.set(never(&key(0_u64), 0, Ticket::unconditional())).await.unwrap();
            }
            stores.push((removal, quick, patient));
        }
    }
    stores
}

/// Waits until commits hang.
async fn held(url: &str) {
    let probe = store(url, "probe", SOON).await;
    let mut number = 0_u64;
    eventually("commits that hang", async || {
        number += 1;
        probe.set(never(&key(number), 1, Ticket::unconditional())).await.err()
    })
    .await;
}

/// Writes keys whose commits hang, then removes them; the removal must not be acknowledged before
/// the commits have ended.
async fn hanging_commits_are_waited_for(
    stores: Vec<(Removal, SqlStore<u64>, SqlStore<u64>)>,
    release: impl Future<Output = ()>,
) {
    let keys: Vec<Key> = (0..3_u64).map(key).collect();
    let mut removals = Vec::new();
    for (removal, quick, patient) in stores {
        let error = quick.set(never(&keys[0], 1, Ticket::unconditional())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{removal:?}: {error:?}");
        let removed = removal.run(&quick, &keys).await;
        assert_eq!(
            removed.as_ref().map_err(cache_core::Error::kind),
            Err(ErrorKind::Timeout),
            "{removal:?} was acknowledged while the value was being committed"
        );
        let (store, keys) = (patient.clone(), keys.clone());
        removals.push((removal, patient, tokio::spawn(async move { removal.run(&store, &keys).await })));
    }
    release.await;
    for (removal, store, task) in removals {
        task.await.unwrap().unwrap();
        let found = store.get(&keys[0]).await.unwrap().and_then(Entry::into_value);
        assert_eq!(found, None, "{removal:?} was undone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_removes_what_is_being_committed() {
    let server = Postgres::start().await;
    let stores = stores(&server.url()).await;
    server.hold_commits().await;
    held(&server.url()).await;
    hanging_commits_are_waited_for(stores, server.release_commits()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_removes_what_is_being_committed() {
    let server = MariaDb::start().await;
    let stores = stores(&server.url()).await;
    let holder = server.hold_commits().await;
    held(&server.url()).await;
    hanging_commits_are_waited_for(stores, async { holder.close().await.unwrap() }).await;
}

/// A row that another transaction has locked, in a table of a server of its own.
async fn locked_row() -> (Postgres, PgConnection) {
    let server = Postgres::start().await;
    let patient = store(&server.url(), "n", PATIENT).await;
    patient.set(never(&key("locked"), 1, Ticket::unconditional())).await.unwrap();
    let mut holder = PgConnection::connect(&server.url()).await.unwrap();
    holder.execute(sqlx::raw_sql("BEGIN; UPDATE cache_entries SET write_id = write_id")).await.unwrap();
    (server, holder)
}

/// More keys than there are stripes.
fn others() -> Vec<Key> {
    (0..400_u64).map(key).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_were_given_up_block_no_other_keys() {
    let (server, holder) = locked_row().await;
    let quick = store(&server.url(), "n", SOON).await;
    assert_eq!(
        quick.set(never(&key("locked"), 2, Ticket::unconditional())).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert_eq!(quick.clear().await.unwrap_err().kind(), ErrorKind::Timeout);
    // The row is locked to the end, the rest is not.
    let others = others();
    let patient = store(&server.url(), "n", PATIENT).await;
    for key in &others {
        tokio::time::timeout(PATIENT / 2, patient.del(key)).await.expect("a removal of another key").unwrap();
        patient.set(never(key, 1, Ticket::unconditional())).await.unwrap();
    }
    holder.close().await.unwrap();
    patient.clear().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_that_were_given_up_block_no_insertions() {
    let (server, holder) = locked_row().await;
    let patient = store(&server.url(), "n", PATIENT).await;
    let mut watcher = PgConnection::connect(&server.url()).await.unwrap();
    let writer = patient.clone();
    let writing = tokio::spawn(async move { writer.set(never(&key("locked"), 2, Ticket::unconditional())).await });
    eventually("the wait for the row", async || waits(&mut watcher).await.then_some(())).await;
    let quick = store(&server.url(), "n", SOON).await;
    assert_eq!(quick.del(&key("locked")).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(quick.clear().await.unwrap_err().kind(), ErrorKind::Timeout);
    for key in &others() {
        let set = patient.set(never(key, 1, Ticket::unconditional()));
        tokio::time::timeout(PATIENT / 2, set).await.expect("an insertion of another key").unwrap();
    }
    holder.close().await.unwrap();
    writing.await.unwrap().unwrap();
}

/// Whether any transaction waits for a lock.
async fn waits(watcher: &mut PgConnection) -> bool {
    let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted";
    sqlx::query_scalar::<_, i64>(waiting).fetch_one(watcher).await.unwrap() > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_kept_and_not_polled_ends() {
    let (server, mut holder) = locked_row().await;
    let writer = store(&server.url(), "n", Duration::from_secs(5)).await;
    let locked = key("locked");
    let mut writing = Box::pin(writer.set(never(&locked, 2, Ticket::unconditional())));
    let mut watcher = PgConnection::connect(&server.url()).await.unwrap();
    eventually("the wait for the row", async || {
        assert!(tokio::time::timeout(Duration::from_millis(5), writing.as_mut()).await.is_err());
        waits(&mut watcher).await.then_some(())
    })
    .await;
    holder.execute(sqlx::raw_sql("ROLLBACK")).await.unwrap();
    // It holds its locks now, and would for as long as it is kept.
    let quick = store(&server.url(), "n", SOON).await;
    eventually("the end of the write", async || quick.clear().await.ok()).await;
    eventually("the end of the write", async || quick.del(&locked).await.ok()).await;
    all(quick.set_many(others().iter().map(|key| never(key, 1, Ticket::unconditional())).collect()).await);
    drop(writing);
}
