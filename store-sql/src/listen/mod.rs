//! Invalidation streams of PostgreSQL, by LISTEN and NOTIFY.
//!
//! Triggers on a table send a notification for each statement that changes rows. The stream listens
//! on a connection of its own.
//!
//! *All changes are announced.* `LISTEN` takes effect when its transaction commits, and the session
//! receives the notifications of all transactions that commit after that. So the stream begins when
//! `LISTEN` has been confirmed. After that it looks whether the triggers are there: they were
//! installed by a transaction that has waited for all writers before it.
//!
//! *A heartbeat proves that.* PostgreSQL guarantees that "messages from different transactions are
//! delivered in the order in which the transactions committed" (`NOTIFY`, Description). It has one
//! queue for all channels, and a transaction that has sent notifications holds a lock from when it
//! puts them into the queue until its commit has taken effect. So when a notification that the
//! stream has sent to itself arrives, all changes that were visible before it was sent have been
//! announced.
//!
//! *The server is that of the store.* A connection that remains open to the former primary would
//! prove nothing. So each heartbeat checks that the server is not a standby, and that the pool of
//! the store leads to the same server.

mod connection;
mod payload;
pub(crate) mod trigger;

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use cache_core::{Error, ErrorKind, Invalidation, InvalidationSink, InvalidationStream, Result};
use sqlx::PgPool;
use tokio::time::{sleep, timeout};

use self::connection::{Connection, STARTED, State};
use crate::{
    database::{Database, Mode, Session, Work, error, runtime},
    dialect::{postgres, statement::Statement},
};

/// The changes of a table of the application in PostgreSQL, as an invalidation stream: triggers on
/// the table send the keys by `NOTIFY`, and the tiers of a chain above the table follow.
///
/// Pass it to `Tier::invalidations`, mostly for an `Origin` that reads the table. A
/// [`SqlStore`](crate::SqlStore) does not need it; see
/// [`announce_changes`](crate::SqlStoreBuilder::announce_changes).
///
/// The [crate's documentation](crate#changes-of-your-own-tables) has the statements that install
/// the triggers. The payload of a notification has one key on each line, exactly as the `CacheKey`
/// of the application writes it, or is `*` if any key may have changed. If a key may contain a line
/// break, send `*`.
///
/// The stream has a connection of its own, which counts towards the limit of the server and not of
/// the pool. It must lead to PostgreSQL directly: a pooler in transaction mode delivers no
/// notifications, and the stream then ends by its timeout. With each heartbeat it also asks the
/// pool for a connection.
///
/// The stream cannot tell whether the triggers are there.
///
/// # Examples
///
/// ```no_run
/// use store_sql::{PostgresChanges, sqlx::PgPool};
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let pool = PgPool::connect("postgres://app:secret@db.example/shop").await?;
///     let changes = PostgresChanges::on(pool, "users_changed")?;
///     // `ChainCache::builder().tier(memory).tier(Tier::new(origin).invalidations(changes))`
///     Ok(())
/// }
/// ```
pub struct PostgresChanges {
    database: Database,
    timeout: Duration,
    channel: String,
    /// The table of entries and the namespace; `None` for a table of the application.
    entries: Option<(String, String)>,
}

/// The longest name of a channel, in bytes.
const MAX_CHANNEL: usize = 63;

impl PostgresChanges {
    /// Creates the stream of the changes that are announced on this channel of the database of the
    /// pool. Connects to nothing.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the name of the channel has not 1 to 63 bytes, or
    /// contains a zero byte.
    pub fn on(pool: PgPool, channel: impl Into<String>) -> Result<Self> {
        Self::of(Database::postgres(pool), channel.into())
    }

    /// As [`on`](Self::on), for the database at `postgres://user:password@host:port/database`. Opens
    /// one more connection when it runs.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the URL or the name of the channel is invalid,
    /// and one of kind `Closed` outside a Tokio runtime.
    pub fn at(url: &str, channel: impl Into<String>) -> Result<Self> {
        runtime::check()?;
        if !url.starts_with("postgres:") && !url.starts_with("postgresql:") {
            let message = "the URL is not one of PostgreSQL; write postgres://user:password@host:port/database";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Self::of(Database::at(url, 1, DEFAULT_TIMEOUT)?, channel.into())
    }

    fn of(database: Database, channel: String) -> Result<Self> {
        if !(1..=MAX_CHANNEL).contains(&channel.len()) || channel.contains('\0') {
            let message = format!(
                "the name of the channel {channel:?} is invalid; choose 1 to {MAX_CHANNEL} bytes, none of them zero"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(Self { database, timeout: DEFAULT_TIMEOUT, channel, entries: None })
    }

    /// Creates the stream of the changes of a namespace in a table of entries.
    pub(crate) fn of_entries(database: Database, timeout: Duration, table: &str, namespace: &str) -> Self {
        // The name of a table is a valid name of a channel.
        let entries = Some((table.to_owned(), namespace.to_owned()));
        Self { database, timeout, channel: table.to_owned(), entries }
    }

    /// Sets the timeout of connecting and of a heartbeat. Default: 2 s. The longest time for which
    /// an entry is served that was changed includes it; see `Coherence::heartbeat`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs the stream until it breaks.
    async fn listen(&self, heartbeat: Duration, sink: &dyn InvalidationSink) -> Result<Infallible> {
        runtime::check()?;
        if self.timeout.is_zero() {
            let message = "the timeout of the invalidation stream is zero; set it above zero";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let pool = self.database.postgres_pool().ok_or_else(not_postgres)?;
        let announcers = match &self.entries {
            Some((table, _)) => postgres::announcers(table),
            None => "''".to_owned(),
        };
        let mut on = |payload: &str| match &self.entries {
            Some((_, namespace)) => payload::apply_of_table(payload, namespace, sink),
            None => payload::apply_of_application(payload, sink),
        };
        let mut connection = self.within(CONNECT, Connection::open(pool, &self.channel)).await?;
        // After LISTEN: the triggers that are there now have announced all changes since.
        let begun = self.within(CONNECT, connection.state(&announcers)).await?;
        check(&begun, &begun)?;
        sink.apply(Invalidation::Begin("listen"));
        let mut unanswered = 0;
        loop {
            let sent = Instant::now();
            let state = self.within(BEAT, connection.beat(&announcers, &mut on)).await?;
            check(&begun, &state)?;
            // Half of the timeout, so that a pool whose connections are all in use does not cost the
            // trust: the entries in memory are what relieves it.
            let server = self.database.run(self.timeout / 2, &AskServer);
            match self.received(connection.receive_while(server, &mut on).await)? {
                Ok(started) if started != begun.started => return Err(other_server()),
                Ok(_) => unanswered = 0,
                Err(error) if error.kind() != ErrorKind::Timeout || unanswered == BUSY_BEATS => return Err(error),
                Err(_) => unanswered += 1,
            }
            sink.apply(Invalidation::Proven(sent));
            let pause = sleep(heartbeat.saturating_sub(sent.elapsed()));
            self.received(connection.receive_while(pause, &mut on).await)?;
        }
    }

    /// Limits the time of one step. `failure` is the message if it is exceeded.
    async fn within<T>(&self, failure: &str, work: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
        let Ok(done) = timeout(self.timeout, work).await else {
            let message = failure.replace("{timeout}", &format!("{:?}", self.timeout));
            return Err(Error::new(ErrorKind::Timeout, message));
        };
        self.received(done)
    }

    fn received<T>(&self, done: sqlx::Result<T>) -> Result<T> {
        done.map_err(|error| error::failed(self.database.dialect, None, &error))
    }
}

/// The number of heartbeats in a row for which the pool of the store may be too busy to tell which
/// server it leads to.
const BUSY_BEATS: u32 = 20;

/// The messages for what was not done in time.
const CONNECT: &str = "no connection to PostgreSQL for the invalidation stream within {timeout}; check that the server \
                       runs and its max_connections";
const BEAT: &str = "PostgreSQL did not return a heartbeat of the invalidation stream within {timeout}; check its load \
                    and for commits that hang, and connect without a pooler in transaction mode, which delivers no \
                    notifications";

/// The default timeout, as that of a store.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks that the server announces all changes, and did since the stream has begun.
fn check(begun: &State, now: &State) -> Result<()> {
    if now.in_recovery {
        let message = "this PostgreSQL is a standby, which announces no changes; connect to the primary";
        return Err(Error::new(ErrorKind::ReadOnly, message));
    }
    if now.is_unchecked {
        // The driver would panic on a payload that is not UTF-8.
        let message = "the encoding of the database is SQL_ASCII, so a notification may be no text; use UTF8";
        return Err(Error::new(ErrorKind::Backend, message));
    }
    if now.announcers.is_none() || now.announcers != begun.announcers {
        return Err(trigger::missing());
    }
    Ok(())
}

fn other_server() -> Error {
    let message = "the invalidation stream and the store are connected to different PostgreSQL servers";
    Error::new(ErrorKind::Unavailable, message)
}

fn not_postgres() -> Error {
    Error::new(ErrorKind::InvalidInput, "the database is not PostgreSQL")
}

/// Asks the server of the pool when it was started.
struct AskServer;

impl Work for AskServer {
    type Output = i64;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<i64> {
        let mut query = Statement::new(postgres::syntax());
        query.push("SELECT ").push(STARTED);
        session.number(&query).await
    }
}

impl InvalidationStream for PostgresChanges {
    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn run(
        self: Arc<Self>,
        heartbeat: Duration,
        sink: Arc<dyn InvalidationSink>,
    ) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        Box::pin(async move {
            match self.listen(heartbeat, &*sink).await {
                Ok(never) => match never {},
                Err(error) => error,
            }
        })
    }
}

/// Shows neither the URL nor the pool.
impl fmt::Debug for PostgresChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresChanges")
            .field("channel", &self.channel)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
