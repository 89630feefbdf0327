//! Runs SQL without a store, as an operator would.

use sqlx::{AssertSqlSafe, Connection, Executor as _, MySqlConnection, PgConnection, SqliteConnection};

/// Runs `$run` on a new connection `$wire` to the database of this URL.
macro_rules! on_connection {
    ($url:expr, $wire:ident => $run:expr) => {
        match $url.split(':').next() {
            Some("mysql") => on_connection!(@as MySqlConnection, $url, $wire => $run),
            Some("postgres") => on_connection!(@as PgConnection, $url, $wire => $run),
            Some("sqlite") => on_connection!(@as SqliteConnection, $url, $wire => $run),
            _ => panic!("{} is the URL of no database", $url),
        }
    };
    // The futures of the drivers are large.
    (@as $connection:ty, $url:expr, $wire:ident => $run:expr) => {
        Box::pin(async {
            let mut $wire = <$connection>::connect($url).await.unwrap_or_else(|error| panic!("{}: {error}", $url));
            $run
        })
        .await
    };
}

/// Runs statements.
pub(crate) async fn execute(url: &str, statements: &str) {
    on_connection!(url, wire => wire.execute(sqlx::raw_sql(AssertSqlSafe(statements))).await.map(drop))
        .unwrap_or_else(|error| panic!("{statements}: {error}"));
}

/// Returns the one number that a query gives, `None` if it is NULL.
pub(crate) async fn number(url: &str, query: &str) -> Option<i64> {
    on_connection!(url, wire => sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut wire).await)
        .unwrap_or_else(|error| panic!("{query}: {error}"))
}
