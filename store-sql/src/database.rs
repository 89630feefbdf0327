//! A database: its pool, its SQL, and whether it answers.

use std::{
    fmt,
    future::poll_fn,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use cache_core::{Error, ErrorKind, Result};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

use crate::{
    dialect::Dialect,
    pool::{Pool, Session},
};

/// A database. A clone is the same.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) pool: Pool,
    pub(crate) dialect: &'static dyn Dialect,
    /// Where a SQLite is.
    pub(crate) file: Option<Arc<Path>>,
    /// Where one may write at a time, the right to. Its queue is fair, other than that of SQLite, which polls.
    writer: Option<Arc<Semaphore>>,
    alive: Arc<Mutex<Instant>>,
    knocking: Arc<Semaphore>,
}

/// For how long the pool may be silent before a call looks by itself whether the database is there.
const PATIENCE: Duration = Duration::from_millis(200);

impl Database {
    #[cfg(feature = "mysql")]
    pub(crate) fn mysql(pool: sqlx::MySqlPool) -> Self {
        Self::new(Pool::MySql(pool), &crate::mysql::MySql)
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres(pool: sqlx::PgPool) -> Self {
        Self::new(Pool::Postgres(pool), &crate::postgres::Postgres)
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn sqlite(pool: sqlx::SqlitePool) -> Self {
        let file = Some(pool.connect_options().get_filename().into());
        let writer = Some(Arc::new(Semaphore::new(1)));
        Self { file, writer, ..Self::new(Pool::Sqlite(pool), &crate::sqlite::Sqlite) }
    }

    fn new(pool: Pool, dialect: &'static dyn Dialect) -> Self {
        let alive = Arc::new(Mutex::new(Instant::now()));
        Self { pool, dialect, file: None, writer: None, alive, knocking: Arc::new(Semaphore::new(1)) }
    }

    /// The database that a URL leads to; it is not connected to yet. The pool lets a call wait for a connection for as long
    /// as the call itself may take.
    pub(crate) fn at(url: &str, connections: u32, deadline: Duration) -> Result<Self> {
        let scheme = url.split(':').next().unwrap_or_default();
        macro_rules! pool {
            ($make:ident, $options:ty, $settings:ty, |$option:ident| $adjusted:expr) => {{
                use sqlx::ConnectOptions as _;
                let $option = url.parse::<$options>().map_err(|_| unusable())?.disable_statement_logging();
                let pool = <$settings>::new()
                    .max_connections(connections)
                    .acquire_timeout(deadline)
                    // A connection that was lost is noticed by the first statement, and that is tried again.
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
                "a SQLite in memory is gone with its connection; name a file, or use a store in memory",
            )),
            #[cfg(feature = "sqlite")]
            "sqlite" => {
                use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
                pool!(sqlite, sqlx::sqlite::SqliteConnectOptions, sqlx::sqlite::SqlitePoolOptions, |options| options
                    .create_if_missing(!url.contains("mode=") || url.contains("mode=rwc"))
                    .busy_timeout(deadline)
                    .journal_mode(SqliteJournalMode::Wal)
                    // With WAL, a crash of the machine may cost the last writes and never the file.
                    .synchronous(SqliteSynchronous::Normal))
            }
            _ => Err(unusable()),
        }
    }

    /// The right to write, where one may at a time.
    pub(crate) async fn writing(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.writer.as_ref()?).acquire_owned().await.ok()
    }

    /// A connection.
    ///
    /// The pool goes on trying to connect to a database that refuses, up to its own timeout, and does not tell. So whoever
    /// waits while nobody gets an answer knocks, one at a time, and learns why.
    pub(crate) async fn session(&self) -> sqlx::Result<Session> {
        let (mut acquiring, mut watching) = (pin!(self.pool.acquire()), pin!(self.watch()));
        poll_fn(|context| match acquiring.as_mut().poll(context) {
            Poll::Pending => watching.as_mut().poll(context).map(Err),
            acquired @ Poll::Ready(_) => acquired,
        })
        .await
    }

    /// Returns once the database turns out to be out of reach.
    async fn watch(&self) -> sqlx::Error {
        loop {
            sleep(PATIENCE).await;
            let Ok(_knocking) = self.knocking.acquire().await else { continue };
            if self.silent() {
                if let Err(error) = self.pool.knock().await {
                    return error;
                }
                self.answered();
            }
        }
    }

    /// Notes that the database answers.
    pub(crate) fn answered(&self) {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn silent(&self) -> bool {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= PATIENCE
    }
}

fn unusable() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "the URL of the database cannot be used; write mysql://user:password@host:port/database, \
         postgres://user:password@host:port/database or sqlite://path/of/the/file, and take the feature of that name \
         (mysql, postgres, sqlite); percent-encode what has a meaning in URLs",
    )
}

/// Shows which kind it is; the address and the credentials are those of the pool.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dialect.title())
    }
}
