//! A table in one of the databases, for tests that hold for all of them.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use cache_core::Codec;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use store_sql::{DefaultCodec, SqlStore, SqlStoreBuilder};
use tempfile::TempDir;

use crate::{MariaDb, Postgres};

/// A table that no other test uses, in a database that runs.
#[derive(Debug)]
pub struct SqlPlace {
    /// What a store connects to.
    pub url: String,
    /// The table, which is not there yet.
    pub table: String,
    /// Which database it is.
    pub kind: SqlKind,
    _owner: Owner,
}

/// Which database it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SqlKind {
    /// MariaDB, as MySQL.
    MySql,
    /// PostgreSQL.
    Postgres,
    /// SQLite in a file.
    Sqlite,
}

#[derive(Debug)]
#[allow(dead_code, reason = "held, not read")]
enum Owner {
    MariaDb(Arc<MariaDb>),
    Postgres(Arc<Postgres>),
    File(TempDir),
}

impl SqlPlace {
    /// A table in the database of this kind.
    pub async fn of(kind: SqlKind) -> Self {
        static TABLES: AtomicU32 = AtomicU32::new(0);
        let (url, owner) = match kind {
            SqlKind::MySql => {
                let server = MariaDb::shared().await;
                (server.url(), Owner::MariaDb(server))
            }
            SqlKind::Postgres => {
                let server = Postgres::shared().await;
                (server.url(), Owner::Postgres(server))
            }
            SqlKind::Sqlite => {
                let directory = tempfile::tempdir().expect("a temporary directory");
                let file = directory.path().join("cache.db");
                (format!("sqlite://{}", file.display()), Owner::File(directory))
            }
        };
        let table = format!("cache_{}", TABLES.fetch_add(1, Ordering::Relaxed));
        Self { url, table, kind, _owner: owner }
    }

    /// Starts to describe a store here, of the namespace `n`, that creates the table and does not
    /// sweep.
    pub fn builder<V>(&self) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStore::builder(&self.url).table(&self.table).namespace("n").create_table().sweep_every(None)
    }

    /// That store.
    pub async fn store<V>(&self) -> SqlStore<V>
    where
        DefaultCodec: Codec<V>,
    {
        self.builder().connect().await.expect("a store")
    }

    /// Runs statements as an operator would. `{t}` in them is the table, quoted.
    pub async fn execute(&self, statements: &str) {
        let statements = statements.replace("{t}", &self.quoted());
        let url = if self.kind == SqlKind::Sqlite { format!("{}?mode=rwc", self.url) } else { self.url.clone() };
        macro_rules! run {
            ($connection:ty) => {{
                let mut wire = <$connection>::connect(&url).await.unwrap_or_else(|error| panic!("{error}"));
                wire.execute(sqlx::raw_sql(AssertSqlSafe(&*statements))).await.map(drop)
            }};
        }
        match self.kind {
            SqlKind::MySql => run!(sqlx::MySqlConnection),
            SqlKind::Postgres => run!(sqlx::PgConnection),
            SqlKind::Sqlite => run!(sqlx::SqliteConnection),
        }
        .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// The one number that a query gives, `None` if it is NULL. `{t}` in it is the table, quoted,
    /// and `{now}` the time.
    pub async fn number(&self, query: &str) -> Option<i64> {
        let query = query.replace("{t}", &self.quoted()).replace("{now}", self.now());
        macro_rules! ask {
            ($connection:ty) => {{
                let mut wire = <$connection>::connect(&self.url).await.unwrap_or_else(|error| panic!("{error}"));
                sqlx::query_scalar(AssertSqlSafe(&*query)).fetch_one(&mut wire).await
            }};
        }
        match self.kind {
            SqlKind::MySql => ask!(sqlx::MySqlConnection),
            SqlKind::Postgres => ask!(sqlx::PgConnection),
            SqlKind::Sqlite => ask!(sqlx::SqliteConnection),
        }
        .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// How many rows the table has, be they dead or alive.
    pub async fn rows(&self) -> i64 {
        self.number("SELECT COUNT(*) FROM {t}").await.expect("a number")
    }

    /// Bytes as a literal.
    pub fn bytes(&self, bytes: &[u8]) -> String {
        let mut digits = String::new();
        for byte in bytes {
            write!(digits, "{byte:02x}").expect("a string");
        }
        match self.kind {
            SqlKind::MySql | SqlKind::Sqlite => format!("x'{digits}'"),
            SqlKind::Postgres => format!("'\\x{digits}'::bytea"),
        }
    }

    fn quoted(&self) -> String {
        match self.kind {
            SqlKind::MySql => format!("`{}`", self.table),
            SqlKind::Postgres | SqlKind::Sqlite => format!("\"{}\"", self.table),
        }
    }

    /// The database's clock in Unix milliseconds, in other words than the store's.
    fn now(&self) -> &'static str {
        match self.kind {
            SqlKind::MySql => "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
            SqlKind::Postgres => "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            SqlKind::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        }
    }
}

/// Makes of each function a test on each database: `fn(SqlPlace)`.
#[macro_export]
macro_rules! on_each_database {
    ($($name:ident),* $(,)?) => {
        $crate::on_each_database! { @database mysql MySql $($name)* }
        $crate::on_each_database! { @database postgres Postgres $($name)* }
        $crate::on_each_database! { @database sqlite Sqlite $($name)* }
    };
    (@database $module:ident $kind:ident $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::SqlPlace::of($crate::SqlKind::$kind).await).await;
                }
            )*
        }
    };
}
