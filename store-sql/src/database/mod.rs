//! A database: its connections, its dialect, and whether it responds.

// From the bottom up: each module uses only those above it, and the calls use the database below.
mod hint;

pub(crate) mod error;
mod pool;
pub(crate) mod runtime;

mod work;

mod call;

use std::{
    fmt,
    future::poll_fn,
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

use self::pool::Pool;
pub(crate) use self::{
    pool::Session,
    work::{Mode, Work},
};
use crate::dialect::Dialect;

/// A database. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Database {
    pool: Pool,
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
        Self { pool, dialect, file: None, write_permit: None, last_response, ping_permit }
    }

    /// Returns the database at a URL, which is not connected yet. A call can wait for a connection
    /// of the pool for its whole timeout.
    pub(crate) fn at(url: &str, connections: u32, timeout: Duration) -> Result<Self> {
        let scheme = url.split(':').next().unwrap_or_default();
        macro_rules! pool {
            ($make:ident, $options:ty, $settings:ty, |$option:ident| $adjusted:expr) => {{
                use sqlx::ConnectOptions as _;
                let $option = url.parse::<$options>().map_err(|_| invalid_url())?.disable_statement_logging();
                let pool = <$settings>::new()
                    .max_connections(connections)
                    .acquire_timeout(timeout)
                    // The first statement notices a lost connection, and is tried again.
                    .test_before_acquire(false)
                    .connect_lazy_with($adjusted);
                Ok(Self::$make(pool))
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
        let (mut acquiring, mut watching) = (pin!(self.pool.acquire()), pin!(self.watch()));
        poll_fn(|context| match acquiring.as_mut().poll(context) {
            Poll::Pending => watching.as_mut().poll(context).map(Err),
            acquired @ Poll::Ready(_) => acquired,
        })
        .await
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
