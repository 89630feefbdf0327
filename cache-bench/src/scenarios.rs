//! The scenarios. Each is driven by gates, so it takes the same course in every cache; every wait
//! has a bound.

use std::{pin::Pin, time::Duration};

use tokio::task::{JoinHandle, yield_now};

use crate::{
    origin::{Database, End, GONE, Load, NEW, OLD, Stop},
    subject::{Answer, Subject, Write},
};

/// How long a step may take until it counts as hanging. None of them waits for time.
const BOUND: Duration = Duration::from_secs(5);

/// Nothing, or how the promise was broken.
pub(crate) type Outcome = Result<(), String>;

/// What must hold, whether it is about a tier below the first, and the course that shows it.
pub(crate) struct Scenario(pub(crate) &'static str, pub(crate) bool, pub(crate) Course);

pub(crate) type Course = fn() -> Pin<Box<dyn Future<Output = Outcome>>>;

/// All of them, for one cache.
pub(crate) fn scenarios<S: Subject>() -> [Scenario; 10] {
    [
        Scenario("deleted during a load: stays deleted", false, || Box::pin(written_during_load::<S>(Write::Del))),
        Scenario("replaced during a load: stays replaced", false, || {
            Box::pin(written_during_load::<S>(Write::Set(NEW)))
        }),
        Scenario("cleared during a load: stays cleared", false, || Box::pin(written_during_load::<S>(Write::Clear))),
        Scenario("a get after a delete joins no load from before it", false, || Box::pin(get_after_delete::<S>())),
        Scenario("deleted during a backfill: stays deleted", true, || Box::pin(deleted_during_backfill::<S>())),
        Scenario("deleted beside a load: the shared tier stays clean", true, || Box::pin(deleted_beside::<S>())),
        Scenario("a load is cancelled: who waits gets a value", false, || Box::pin(leader_cancelled::<S>())),
        Scenario("a load panics: who waits gets an answer", false, || Box::pin(leader_ends::<S>(End::Panic))),
        Scenario("a load fails: the next get loads", false, || Box::pin(leader_ends::<S>(End::Error))),
        Scenario("two caches, one key: no load is shared", false, || Box::pin(two_caches::<S>())),
    ]
}

async fn written_during_load<S: Subject>(write: Write) -> Outcome {
    let [cache] = S::caches(&Stop::default());
    let (database, stop, first) = held(&cache, End::Value).await?;
    change(&database, &cache, write).await?;
    stop.release();
    // It began before the write, so it may return either value.
    let _ = ended("the first get", first).await?;
    finds("a later get", &cache, &database).await
}

async fn get_after_delete<S: Subject>() -> Outcome {
    let [cache] = S::caches(&Stop::default());
    let (database, stop, first) = held(&cache, End::Value).await?;
    change(&database, &cache, Write::Del).await?;
    let second = begin(&cache, &database).await;
    // It would wait for ever if it has joined the load from before.
    stop.release();
    is_current("the get after the delete", ended("the get after the delete", second).await?, &database)?;
    let _ = ended("the first get", first).await?;
    finds("a later get", &cache, &database).await
}

async fn deleted_during_backfill<S: Subject>() -> Outcome {
    let (database, reads) = (Database::with(OLD), Stop::default());
    let [writer, cache] = S::caches(&reads);
    change(&database, &writer, Write::Set(OLD)).await?;
    reads.arm();
    let first = begin(&cache, &database).await;
    bounded("the read of the lower tier", reads.reached()).await?;
    change(&database, &cache, Write::Del).await?;
    reads.release();
    let _ = ended("the first get", first).await?;
    finds("a later get", &cache, &database).await
}

/// As between two processes over one Redis, and a third that starts later.
async fn deleted_beside<S: Subject>() -> Outcome {
    let [cache, beside, third] = S::caches(&Stop::default());
    let (database, stop, first) = held(&cache, End::Value).await?;
    change(&database, &beside, Write::Del).await?;
    stop.release();
    let _ = ended("the first get", first).await?;
    bounded("the settling", cache.settled()).await??;
    finds("a third cache's get", &third, &database).await
}

async fn leader_cancelled<S: Subject>() -> Outcome {
    let [cache] = S::caches(&Stop::default());
    let (database, stop, leader) = held(&cache, End::Value).await?;
    let waiter = begin(&cache, &database).await;
    leader.abort();
    let _ = bounded("the cancelling", leader).await?;
    // A cache may go on with a load that nobody asks for any more.
    stop.release();
    is_current("the waiter", ended("the waiter", waiter).await?, &database)
}

async fn leader_ends<S: Subject>(end: End) -> Outcome {
    let [cache] = S::caches(&Stop::default());
    let (database, stop, leader) = held(&cache, end).await?;
    let waiter = begin(&cache, &database).await;
    stop.release();
    if let Ok(Ok(value)) = bounded("the leader", leader).await? {
        return Err(format!("the load gives no value, and its get returns `{value}`"));
    }
    if let Ok(value) = ended("the waiter", waiter).await? {
        is_current("the waiter", Ok(value), &database)?;
    }
    finds("the next get", &cache, &database).await
}

async fn two_caches<S: Subject>() -> Outcome {
    let ([cache], [other]) = (S::caches(&Stop::default()), S::caches::<1>(&Stop::default()));
    let (database, stop, first) = held(&cache, End::Value).await?;
    finds("the other cache's get", &other, &Database::with(NEW)).await?;
    stop.release();
    is_current("the first get", ended("the first get", first).await?, &database)
}

type Get = JoinHandle<Answer>;

/// A get whose load has read `OLD` and is held, and will end as told.
async fn held<S: Subject>(cache: &S, end: End) -> Result<(Database, Stop, Get), String> {
    let (database, stop) = (Database::with(OLD), Stop::default());
    stop.arm();
    let get = begin_with(cache, Load(database.clone(), stop.clone(), end)).await;
    bounded("the load", stop.reached()).await?;
    Ok((database, stop, get))
}

async fn begin<S: Subject>(cache: &S, database: &Database) -> Get {
    begin_with(cache, Load(database.clone(), Stop::default(), End::Value)).await
}

/// Begins a get and lets it come as far as it can.
async fn begin_with<S: Subject>(cache: &S, load: Load) -> Get {
    let cache = cache.clone();
    let get = tokio::spawn(async move { cache.load(load).await });
    // On one thread the tasks take turns: it, and what it spawned, has run until it waits for
    // something.
    for _ in 0..64 {
        yield_now().await;
    }
    get
}

/// In the database and then in the cache, as an application does it.
async fn change<S: Subject>(database: &Database, cache: &S, write: Write) -> Outcome {
    database.write(if let Write::Set(value) = write { value } else { GONE });
    bounded("the write", cache.write(write)).await?
}

/// Whether a get that begins now returns what is in the database.
async fn finds<S: Subject>(who: &str, cache: &S, database: &Database) -> Outcome {
    bounded("the settling", cache.settled()).await??;
    is_current(who, ended(who, begin(cache, database).await).await?, database)
}

fn is_current(who: &str, found: Answer, database: &Database) -> Outcome {
    let current = database.read();
    match found {
        Ok(value) if value == current => Ok(()),
        Ok(value) => Err(format!("{who} returns `{value}` where the database has `{current}`")),
        Err(error) => Err(format!("{who} fails: {error}")),
    }
}

/// What a get came to. A panic is no answer.
async fn ended(who: &str, get: Get) -> Result<Answer, String> {
    bounded(who, get).await?.map_err(|_| format!("{who} panics"))
}

async fn bounded<T>(what: &str, step: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(BOUND, step).await.map_err(|_| format!("{what} hangs"))
}
