//! A table in one of the databases, for tests that hold for all of them.

use std::{
    any::Any,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use cache_core::Codec;
use store_sql::{DefaultCodec, SqlStore, SqlStoreBuilder};

use crate::{
    database_server::Product as _,
    mariadb::{MariaDb, MariaDbProduct},
    postgres::{Postgres, PostgresProduct},
    sql,
};

/// A table that no other test uses, in a database that runs.
#[derive(Debug)]
pub struct SqlPlace {
    /// What a store connects to.
    pub url: String,
    /// The table, which is not there yet.
    pub table: String,
    /// Which database it is.
    pub kind: SqlKind,
    /// The shared server, or the directory of the file.
    _owner: Arc<dyn Any + Send + Sync>,
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

impl SqlPlace {
    /// A table in the database of this kind.
    pub async fn of(kind: SqlKind) -> Self {
        static TABLES: AtomicU32 = AtomicU32::new(0);
        let (url, owner): (String, Arc<dyn Any + Send + Sync>) = match kind {
            SqlKind::MySql => {
                let server = MariaDb::shared().await;
                (server.url(), server)
            }
            SqlKind::Postgres => {
                let server = Postgres::shared().await;
                (server.url(), server)
            }
            SqlKind::Sqlite => {
                let directory = tempfile::tempdir().expect("a temporary directory");
                let file = directory.path().join("cache.db");
                (format!("sqlite://{}", file.display()), Arc::new(directory))
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
        let url = if self.kind == SqlKind::Sqlite { format!("{}?mode=rwc", self.url) } else { self.url.clone() };
        sql::execute(&url, &statements.replace("{t}", &self.quoted())).await;
    }

    /// The one number that a query gives, `None` if it is NULL. `{t}` in it is the table, quoted,
    /// and `{now}` the time.
    pub async fn number(&self, query: &str) -> Option<i64> {
        sql::number(&self.url, &query.replace("{t}", &self.quoted()).replace("{now}", self.now())).await
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
            SqlKind::MySql => MariaDbProduct::NOW,
            SqlKind::Postgres => PostgresProduct::NOW,
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
