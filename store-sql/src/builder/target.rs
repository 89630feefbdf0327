//! The database of a store: by URL, of another store, or a pool of the application.

use super::SqlStoreBuilder;
use crate::{codec::DefaultCodec, database::Database, store::SqlStore};

/// The database that holds the table.
#[derive(Clone)]
pub(super) enum Target {
    Url(String),
    Database(Database),
}

impl<V> SqlStore<V> {
    /// Returns a builder for a store with its own connections to
    /// `mysql://user:password@host:port/database`, `postgres://user:password@host:port/database` or
    /// `sqlite://path/of/the/file`. Each needs the feature of its name.
    ///
    /// The parameters of the URL are those of sqlx. A missing SQLite file is created, unless the
    /// URL has a `mode`.
    pub fn builder(url: impl Into<String>) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Target::Url(url.into()))
    }

    /// Returns a builder for a store on the connections of another store, with another namespace or
    /// another table.
    pub fn builder_on<W, D>(other: &SqlStore<W, D>) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Target::Database(other.database().clone()))
    }

    /// Returns a builder for a store on a pool of the application, whose settings are not changed.
    ///
    /// Set the pool's `acquire_timeout` to at least the store's timeout. Use the
    /// [re-exported](crate::sqlx) version of sqlx.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use store_sql::{SqlStore, sqlx};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let options = sqlx::mysql::MySqlPoolOptions::new().max_connections(20).acquire_timeout(Duration::from_secs(3));
    ///     let pool = options.connect("mysql://app:secret@db.example/shop").await?;
    ///     let users: SqlStore<String> = SqlStore::on_mysql(pool).namespace("users").create_table().connect().await?;
    ///     Ok(())
    /// }
    /// ```
    #[cfg(feature = "mysql")]
    pub fn on_mysql(pool: sqlx::MySqlPool) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Target::Database(Database::mysql(pool)))
    }

    /// Returns a builder for a store on a pool of the application, whose settings are not changed.
    ///
    /// Set the pool's `acquire_timeout` to at least the store's timeout. Use the
    /// [re-exported](crate::sqlx) version of sqlx.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use store_sql::{SqlStore, sqlx};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let options = sqlx::postgres::PgPoolOptions::new().max_connections(20).acquire_timeout(Duration::from_secs(3));
    ///     let pool = options.connect("postgres://app:secret@db.example/shop").await?;
    ///     let users: SqlStore<String> = SqlStore::on_postgres(pool).namespace("users").create_table().connect().await?;
    ///     Ok(())
    /// }
    /// ```
    #[cfg(feature = "postgres")]
    pub fn on_postgres(pool: sqlx::PgPool) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Target::Database(Database::postgres(pool)))
    }

    /// Returns a builder for a store on a pool of the application, whose settings are not changed.
    ///
    /// Enable WAL, set a `busy_timeout`, and set the pool's `acquire_timeout` to at least the
    /// store's timeout. A database in memory needs one connection that is never closed; a dropped
    /// call closes its connection. Use the [re-exported](crate::sqlx) version of sqlx.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use store_sql::{SqlStore, sqlx};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let file = sqlx::sqlite::SqliteConnectOptions::new()
    ///         .filename("cache.db")
    ///         .create_if_missing(true)
    ///         .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
    ///         .busy_timeout(Duration::from_secs(2));
    ///     let options = sqlx::sqlite::SqlitePoolOptions::new().acquire_timeout(Duration::from_secs(3));
    ///     let pool = options.connect_with(file).await?;
    ///     let users: SqlStore<String> = SqlStore::on_sqlite(pool).namespace("users").create_table().connect().await?;
    ///     Ok(())
    /// }
    /// ```
    #[cfg(feature = "sqlite")]
    pub fn on_sqlite(pool: sqlx::SqlitePool) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Target::Database(Database::sqlite(pool)))
    }
}
