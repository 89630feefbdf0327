//! Pools and connections of all databases.

use sqlx::{
    AssertSqlSafe, ColumnIndex, ConnectOptions as _, Connection as _, Database, Decode, Encode, Executor as _, Type,
    database::HasStatementCache, pool::PoolConnection, query::Query,
};
use tokio::runtime::Handle;

use crate::dialect::statement::{Argument, Row, Statement};

/// A pool of connections.
#[derive(Clone)]
pub(crate) enum Pool {
    #[cfg(feature = "mysql")]
    MySql(sqlx::MySqlPool),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqlitePool),
}

enum Connection {
    #[cfg(feature = "mysql")]
    MySql(PoolConnection<sqlx::MySql>),
    #[cfg(feature = "postgres")]
    Postgres(PoolConnection<sqlx::Postgres>),
    #[cfg(feature = "sqlite")]
    Sqlite(PoolConnection<sqlx::Sqlite>),
}

/// Runs the same expression for each database. Their types share no trait that would make a generic
/// function short.
macro_rules! each {
    ($of:ident, $value:expr, $inner:ident => $do:expr) => {
        match $value {
            #[cfg(feature = "mysql")]
            $of::MySql($inner) => $do,
            #[cfg(feature = "postgres")]
            $of::Postgres($inner) => $do,
            #[cfg(feature = "sqlite")]
            $of::Sqlite($inner) => $do,
        }
    };
}

impl Pool {
    /// Waits for a free or new connection. `epoch` is the current epoch of the pool.
    pub(crate) async fn acquire(&self, epoch: u64) -> sqlx::Result<Session> {
        let connection = match self {
            #[cfg(feature = "mysql")]
            Self::MySql(pool) => Connection::MySql(pool.acquire().await?),
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => Connection::Postgres(pool.acquire().await?),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => Connection::Sqlite(pool.acquire().await?),
        };
        Ok(Session { connection: Some(connection), runtime: Handle::current(), epoch })
    }

    /// Returns the pool if it is one of PostgreSQL.
    #[cfg(feature = "postgres")]
    #[cfg_attr(
        not(any(feature = "mysql", feature = "sqlite")),
        allow(clippy::unnecessary_wraps, reason = "the pool may be one of another database")
    )]
    pub(crate) fn postgres(&self) -> Option<&sqlx::PgPool> {
        match self {
            Self::Postgres(pool) => Some(pool),
            #[cfg(any(feature = "mysql", feature = "sqlite"))]
            _ => None,
        }
    }

    /// Closes the idle connections, in tasks of the current runtime.
    pub(crate) fn close_idle(&self) {
        each!(Self, self, pool => {
            while let Some(mut connection) = pool.try_acquire() {
                connection.close_on_drop();
            }
        });
    }

    /// Opens a connection outside the pool, and closes it.
    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        each!(Self, self, pool => pool.connect_options().connect().await?.close().await)
    }

    /// Returns the number of connections, and how many of them are idle.
    #[cfg(all(test, feature = "sqlite"))]
    pub(crate) fn size(&self) -> (usize, usize) {
        each!(Self, self, pool => (pool.size() as usize, pool.num_idle()))
    }

    pub(crate) fn max_connections(&self) -> u32 {
        each!(Self, self, pool => pool.options().get_max_connections())
    }
}

/// A connection in use. If it is dropped without [`release`](Self::release), it is closed and not
/// used again: the state of its transaction is unknown, and the database rolls back what is not
/// committed.
pub(crate) struct Session {
    connection: Option<Connection>,
    runtime: Handle,
    epoch: u64,
}

impl Session {
    /// Returns the epoch of the pool in which the connection was acquired.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    fn connection(&mut self) -> sqlx::Result<&mut Connection> {
        self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Returns the rows of a statement.
    pub(crate) async fn rows(&mut self, statement: &Statement<'_>) -> sqlx::Result<Vec<Row>> {
        each!(Connection, self.connection()?, connection => {
            query(statement).fetch_all(&mut **connection).await?.iter().map(read).collect()
        })
    }

    /// Returns the number that a statement returns.
    pub(crate) async fn number(&mut self, statement: &Statement<'_>) -> sqlx::Result<i64> {
        each!(Connection, self.connection()?, connection => {
            sqlx::Row::try_get(&query(statement).fetch_one(&mut **connection).await?, 0)
        })
    }

    /// Runs a statement and returns the number of rows that it has changed.
    pub(crate) async fn change(&mut self, statement: &Statement<'_>) -> sqlx::Result<u64> {
        each!(Connection, self.connection()?, connection => {
            Ok(query(statement).execute(&mut **connection).await?.rows_affected())
        })
    }

    /// Runs statements that have no arguments and return no rows.
    pub(crate) async fn run(&mut self, text: &str) -> sqlx::Result<()> {
        each!(Connection, self.connection()?, connection => {
            connection.execute(sqlx::raw_sql(AssertSqlSafe(text))).await.map(drop)
        })
    }

    /// Returns the connection to its pool.
    pub(crate) fn release(mut self) {
        drop(self.connection.take());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        each!(Connection, &mut connection, connection => connection.close_on_drop());
        // sqlx spawns a task that closes the connection, and the future that held it may be dropped
        // outside the runtime.
        let _entered = self.runtime.enter();
        drop(connection);
    }
}

fn query<'a, DB: Database + HasStatementCache>(statement: &Statement<'a>) -> Query<'a, DB, DB::Arguments>
where
    &'a str: Encode<'a, DB> + Type<DB>,
    Option<&'a [u8]>: Encode<'a, DB> + Type<DB>,
    Option<i64>: Encode<'a, DB> + Type<DB>,
{
    let mut query = sqlx::query(AssertSqlSafe(statement.text.clone()));
    for argument in &statement.arguments {
        query = match *argument {
            Argument::Text(text) => query.bind(text),
            Argument::Bytes(bytes) => query.bind(bytes),
            Argument::Int(number) => query.bind(number),
        };
    }
    query
}

fn read<R: sqlx::Row>(row: &R) -> sqlx::Result<Row>
where
    usize: ColumnIndex<R>,
    Vec<u8>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    let (elapsed, written_at, value) =
        if row.len() > 3 { (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?) } else { (None, None, None) };
    let (id, full_key, number) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(Row { id, full_key, number, elapsed, written_at, value })
}
