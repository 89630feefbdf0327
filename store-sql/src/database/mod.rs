//! A database: its connections, its dialect, and whether it responds.

// From the bottom up: each module uses only those above it, and the calls use the database below.
mod hint;

pub(crate) mod error;
mod pool;
pub(crate) mod runtime;
mod sentinel;

mod work;

mod call;

use std::{
    fmt,
    future::{poll_fn, ready},
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use cache_core::{Error, ErrorKind, Result, backend::lock};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

use self::{pool::Pool, sentinel::Sentinels};
pub(crate) use self::{
    pool::Session,
    work::{Mode, Work},
};
use crate::dialect::Dialect;

/// A database. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Database {
    pool: Pool,
    /// The sentinels of the pool's connections. A pool of the application has none, because its
    /// settings are not changed.
    sentinels: Sentinels,
    pub(crate) dialect: &'static dyn Dialect,
    /// The file of a SQLite database.
    file: Option<Arc<Path>>,
    /// The permit to write, if the database allows one writer at a time. Its queue is fair; SQLite
    /// itself polls.
    write_permit: Option<Arc<Semaphore>>,
    last_response: Arc<Mutex<Instant>>,
    /// The permit to ping: one call at a time does it.
    ping_permit: Arc<Semaphore>,
}

/// The time without a response after which a waiting call pings the database.
const PING_AFTER: Duration = Duration::from_millis(200);

/// The prepared statements that a connection keeps. There are about 150 texts.
const STATEMENTS: usize = 256;

impl Database {
    #[cfg(feature = "mysql")]
    pub(crate) fn mysql(pool: sqlx::MySqlPool) -> Self {
        Self::new(Pool::MySql(pool), &crate::dialect::mysql::MySql)
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres(pool: sqlx::PgPool) -> Self {
        Self::new(Pool::Postgres(pool), &crate::dialect::postgres::Postgres)
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn sqlite(pool: sqlx::SqlitePool) -> Self {
        let file = Some(pool.connect_options().get_filename().into());
        let write_permit = Some(Arc::new(Semaphore::new(1)));
        Self { file, write_permit, ..Self::new(Pool::Sqlite(pool), &crate::dialect::sqlite::Sqlite) }
    }

    fn new(pool: Pool, dialect: &'static dyn Dialect) -> Self {
        let (last_response, ping_permit) = (Arc::new(Mutex::new(Instant::now())), Arc::new(Semaphore::new(1)));
        let sentinels = Sentinels::default();
        Self { pool, sentinels, dialect, file: None, write_permit: None, last_response, ping_permit }
    }

    /// Returns the database at a URL, which is not connected yet. A call can wait for a connection
    /// of the pool for its whole timeout.
    pub(crate) fn at(url: &str, connections: u32, timeout: Duration) -> Result<Self> {
        let scheme = url.split(':').next().unwrap_or_default();
        macro_rules! pool {
            ($make:ident, $options:ty, $settings:ty, |$option:ident| $adjusted:expr) => {{
                use sqlx::ConnectOptions as _;
                let $option = url.parse::<$options>().map_err(|_| invalid_url())?.disable_statement_logging();
                // Room for the text of every statement: closing a prepared one costs MySQL 40 ms.
                let $option = $option.statement_cache_capacity(STATEMENTS);
                let sentinels = Sentinels::default();
                let opened = sentinels.clone();
                let pool = <$settings>::new()
                    .max_connections(connections)
                    .acquire_timeout(timeout)
                    // The first statement notices a lost connection, and is tried again.
                    .test_before_acquire(false)
                    .after_connect(move |_, _| {
                        opened.add();
                        Box::pin(ready(Ok(())))
                    })
                    .connect_lazy_with($adjusted);
                Ok(Self { sentinels, ..Self::$make(pool) })
            }};
        }
        match scheme {
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => {
                pool!(mysql, sqlx::mysql::MySqlConnectOptions, sqlx::mysql::MySqlPoolOptions, |options| options)
            }
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                pool!(postgres, sqlx::postgres::PgConnectOptions, sqlx::postgres::PgPoolOptions, |options| options)
            }
            #[cfg(feature = "sqlite")]
            "sqlite" if url.contains(":memory:") || url.contains("mode=memory") => Err(Error::new(
                ErrorKind::InvalidInput,
                "a SQLite database in memory is lost with its connection; name a file, or use a store in memory",
            )),
            #[cfg(feature = "sqlite")]
            "sqlite" => {
                use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
                pool!(sqlite, sqlx::sqlite::SqliteConnectOptions, sqlx::sqlite::SqlitePoolOptions, |options| options
                    .create_if_missing(!url.contains("mode=") || url.contains("mode=rwc"))
                    .busy_timeout(timeout)
                    .journal_mode(SqliteJournalMode::Wal)
                    // With WAL, a crash of the machine may lose the last writes, but does not
                    // corrupt the file.
                    .synchronous(SqliteSynchronous::Normal))
            }
            _ => Err(invalid_url()),
        }
    }

    /// Returns the pool if this is PostgreSQL.
    #[cfg(feature = "postgres")]
    pub(crate) fn postgres_pool(&self) -> Option<&sqlx::PgPool> {
        self.pool.postgres()
    }

    /// Waits for the permit to write, if the database allows one writer at a time.
    async fn acquire_write_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.write_permit.as_ref()?).acquire_owned().await.ok()
    }

    /// Waits for a connection.
    ///
    /// The pool keeps trying to connect to a database that refuses, up to its own timeout, and does
    /// not report the error. So while no call gets a response, one of the waiting calls pings the
    /// database and returns the error.
    async fn acquire_session(&self) -> sqlx::Result<Session> {
        loop {
            let epoch = self.sentinels.epoch(&self.pool);
            let (mut acquiring, mut watching) = (pin!(self.pool.acquire(epoch)), pin!(self.watch()));
            let session = poll_fn(|context| match acquiring.as_mut().poll(context) {
                Poll::Pending => watching.as_mut().poll(context).map(Err),
                acquired @ Poll::Ready(_) => acquired,
            })
            .await?;
            // A runtime may have ended while this call waited.
            if self.is_current(&session) {
                return Ok(session);
            }
        }
    }

    /// Returns whether the epoch of the pool is still that of the session. If not, the runtime of
    /// its connection may have ended.
    fn is_current(&self, session: &Session) -> bool {
        session.epoch() == self.sentinels.epoch(&self.pool)
    }

    /// Returns the error once the database cannot be reached.
    async fn watch(&self) -> sqlx::Error {
        loop {
            sleep(PING_AFTER).await;
            let Ok(_permit) = self.ping_permit.acquire().await else { continue };
            if self.is_unresponsive() {
                if let Err(error) = self.pool.ping().await {
                    return error;
                }
                self.note_response();
            }
        }
    }

    /// Notes that the database has responded.
    fn note_response(&self) {
        *lock(&self.last_response) = Instant::now();
    }

    fn is_unresponsive(&self) -> bool {
        lock(&self.last_response).elapsed() >= PING_AFTER
    }
}

fn invalid_url() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "the URL of the database is invalid; write mysql://user:password@host:port/database, \
         postgres://user:password@host:port/database or sqlite://path/of/the/file, and enable the feature of that name \
         (mysql, postgres, sqlite); percent-encode special characters",
    )
}

/// Shows the kind of the database, not the address or the credentials.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dialect.title())
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use tokio::{runtime::Builder, task::yield_now};

    use super::*;

    /// Waits until all connections but `in_use` are idle or closed, and returns the number of idle
    /// ones.
    async fn count_idle(database: &Database, in_use: usize) -> usize {
        loop {
            let (size, idle) = database.pool.size();
            if size == idle + in_use {
                return idle;
            }
            yield_now().await;
        }
    }

    #[test]
    fn the_end_of_a_runtime_closes_the_connections_that_it_opened() {
        let [first, second] = [(); 2].map(|()| Builder::new_current_thread().enable_time().build().unwrap());
        let file = std::env::temp_dir().join(format!("store-sql-sentinel-{}.db", std::process::id()));
        let url = format!("sqlite://{}", file.display());
        let database = first.block_on(async { Database::at(&url, 3, Duration::from_mins(1)) }).unwrap();
        first.block_on(async {
            let sessions = [database.acquire_session().await.unwrap(), database.acquire_session().await.unwrap()];
            for session in sessions {
                database.release(session);
            }
            assert_eq!(count_idle(&database, 0).await, 2);
        });
        let in_use = second.block_on(database.acquire_session()).unwrap();
        assert!(database.is_current(&in_use));
        drop(first);
        second.block_on(async {
            assert!(!database.is_current(&in_use));
            assert_eq!(count_idle(&database, 1).await, 0);
            database.release(in_use);
            assert_eq!(count_idle(&database, 0).await, 0);
            for _ in 0..2 {
                let opened = database.acquire_session().await.unwrap();
                assert_eq!(opened.epoch(), 1);
                database.release(opened);
                assert_eq!(count_idle(&database, 0).await, 1);
            }
        });
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
        }
    }

    #[test]
    fn the_number_of_sentinels_is_bounded() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let database = Database::at("sqlite://never-opened.db", 1, Duration::from_mins(1)).unwrap();
            let epochs = [(); 18].map(|()| {
                database.sentinels.add();
                database.sentinels.epoch(&database.pool)
            });
            assert_eq!(epochs, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
            // Those that were removed have ended, and the others end with the database.
            let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
            database.sentinels.add();
            end_of_tasks(&tasks, 1).await;
            drop(database);
            end_of_tasks(&tasks, 0).await;
        });
    }

    /// Waits until so many tasks are left.
    async fn end_of_tasks(tasks: &impl Fn() -> usize, left: usize) {
        for _ in 0..1000 {
            if tasks() == left {
                return;
            }
            yield_now().await;
        }
        panic!("{} tasks are left instead of {left}", tasks());
    }

    /// A call that waits for a connection gets one whose runtime ends before the call goes on.
    #[test]
    fn a_call_that_waits_gets_no_connection_of_a_runtime_that_has_ended() {
        let [first, second] = [(); 2].map(|()| Builder::new_current_thread().enable_time().build().unwrap());
        let file = std::env::temp_dir().join(format!("store-sql-waiting-{}.db", std::process::id()));
        let url = format!("sqlite://{}", file.display());
        let database = first.block_on(async { Database::at(&url, 1, Duration::from_mins(1)) }).unwrap();
        let in_use = first.block_on(database.acquire_session()).unwrap();
        let mut waiting = Box::pin(database.acquire_session());
        second.block_on(poll_fn(|context| {
            assert!(waiting.as_mut().poll(context).is_pending());
            Poll::Ready(())
        }));
        first.block_on(async {
            database.release(in_use);
            assert_eq!(count_idle(&database, 0).await, 1);
        });
        drop(first);
        let session = second.block_on(waiting).unwrap();
        assert!(database.is_current(&session));
        second.block_on(async { database.release(session) });
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
        }
    }
}
