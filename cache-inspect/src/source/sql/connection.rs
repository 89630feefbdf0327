//! A connection to one of the databases.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, ColumnIndex, ConnectOptions as _, Database, Decode, Encode, Executor as _, Type,
    database::HasStatementCache, query::Query,
};

use super::{
    error,
    statements::{self, Dialect},
};
use crate::error::{Error, Result};

pub(super) enum Connection {
    #[cfg(feature = "mysql")]
    MySql(sqlx::MySqlConnection),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgConnection),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqliteConnection),
}

/// A row of the table.
pub(super) struct Row {
    pub(super) id: Vec<u8>,
    pub(super) full_key: Option<Vec<u8>>,
    pub(super) write_id: i64,
    pub(super) written_at: i64,
    pub(super) expires_at: Option<i64>,
    pub(super) now: i64,
    /// The length of the value, `None` in a marker.
    pub(super) size: Option<i64>,
    /// `None` if it was not asked for.
    pub(super) value: Option<Vec<u8>>,
}

/// Runs the same expression for each database. Their types share no trait that would make a generic
/// function short.
macro_rules! each {
    ($value:expr, $inner:ident => $do:expr) => {
        match $value {
            #[cfg(feature = "mysql")]
            Connection::MySql($inner) => $do,
            #[cfg(feature = "postgres")]
            Connection::Postgres($inner) => $do,
            #[cfg(feature = "sqlite")]
            Connection::Sqlite($inner) => $do,
        }
    };
}

impl Connection {
    /// Connects to a URL within the timeout.
    pub(super) async fn open(dialect: &'static Dialect, url: &str, timeout: Duration) -> Result<Self> {
        match tokio::time::timeout(timeout, Self::connect(dialect, url, timeout)).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::failed(format!(
                "no connection to {} within {timeout:?}; check the address and the network",
                dialect.title
            ))),
        }
    }

    async fn connect(dialect: &'static Dialect, url: &str, timeout: Duration) -> Result<Self> {
        // Only SQLite waits for locks by itself.
        let _ = timeout;
        let failed = |error: sqlx::Error| error::connecting(dialect, &error);
        match dialect.kind {
            #[cfg(feature = "mysql")]
            statements::Database::MySql => {
                let options: sqlx::mysql::MySqlConnectOptions = url.parse().map_err(|_| error::invalid_url(dialect))?;
                options.disable_statement_logging().connect().await.map(Self::MySql).map_err(failed)
            }
            #[cfg(feature = "postgres")]
            statements::Database::Postgres => {
                let options: sqlx::postgres::PgConnectOptions = url.parse().map_err(|_| error::invalid_url(dialect))?;
                options.disable_statement_logging().connect().await.map(Self::Postgres).map_err(failed)
            }
            #[cfg(feature = "sqlite")]
            statements::Database::Sqlite => {
                if url.contains(":memory:") || url.contains("mode=memory") {
                    return Err(Error::usage("a SQLite database in memory belongs to its process; name a file"));
                }
                let options: sqlx::sqlite::SqliteConnectOptions =
                    url.parse().map_err(|_| error::invalid_url(dialect))?;
                let options = options.read_only(true).create_if_missing(false).busy_timeout(timeout);
                options.disable_statement_logging().connect().await.map(Self::Sqlite).map_err(failed)
            }
        }
    }

    /// Runs a query in a transaction that begins with `begin`.
    pub(super) async fn read(
        &mut self,
        begin: &str,
        text: &str,
        namespace: &str,
        ids: &[&[u8]],
    ) -> sqlx::Result<Vec<Row>> {
        each!(self, connection => {
            connection.execute(sqlx::raw_sql(AssertSqlSafe(begin))).await?;
            let rows = query(text, namespace, ids).fetch_all(&mut *connection).await?;
            connection.execute(sqlx::raw_sql("COMMIT")).await?;
            rows.iter().map(row).collect()
        })
    }
}

fn query<'a, DB: Database + HasStatementCache>(
    text: &str,
    namespace: &'a str,
    ids: &[&'a [u8]],
) -> Query<'a, DB, DB::Arguments>
where
    &'a str: Encode<'a, DB> + Type<DB>,
    &'a [u8]: Encode<'a, DB> + Type<DB>,
{
    let query = sqlx::query(AssertSqlSafe(text.to_owned())).bind(namespace);
    ids.iter().fold(query, |query, &id| query.bind(id))
}

fn row<R: sqlx::Row>(row: &R) -> sqlx::Result<Row>
where
    usize: ColumnIndex<R>,
    Vec<u8>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    Ok(Row {
        id: row.try_get(0)?,
        full_key: row.try_get(1)?,
        write_id: row.try_get(2)?,
        written_at: row.try_get(3)?,
        expires_at: row.try_get(4)?,
        now: row.try_get(5)?,
        size: row.try_get(6)?,
        // NULL has a type of its own in some databases.
        value: row.try_get_unchecked(7)?,
    })
}
