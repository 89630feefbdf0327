//! The table of users: the source of the data that the cache has copies of.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::{
    AnyConnection, AnyPool, Connection as _,
    any::{AnyPoolOptions, install_default_drivers},
};
use tokio::time::timeout;

use crate::settings::{Database, Product};

/// How long the database may take to answer when the service starts.
const CONNECT: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) email: String,
}

/// The table of users. A clone shares its connections.
#[derive(Clone, Debug)]
pub(crate) struct Users(AnyPool);

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the database of DATABASE_URL ({product}): {reason}")]
pub(crate) struct OpenError {
    product: Product,
    /// The error of the driver, which shows its causes itself.
    reason: sqlx::Error,
}

/// What a `put` did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Put {
    Created,
    Replaced,
}

impl Users {
    /// Connects, and creates the table if it is missing.
    pub(crate) async fn open(database: &Database) -> Result<Self, OpenError> {
        let product = database.product;
        let users = Self::connect(database).await.map_err(|reason| OpenError { product, reason })?;
        tracing::info!("the users are in {product}");
        Ok(users)
    }

    async fn connect(database: &Database) -> sqlx::Result<Self> {
        install_default_drivers();
        // By itself, because the pool calls a refused connection a timeout.
        let connection = timeout(CONNECT, AnyConnection::connect(&database.url)).await;
        connection.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.close().await?;
        let options = AnyPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(2));
        let pool = options.connect(&database.url).await?;
        if database.product == Product::Sqlite {
            // Readers do not wait for a writer. The file keeps this setting.
            sqlx::query("PRAGMA journal_mode = WAL").execute(&pool).await?;
        }
        let table = "CREATE TABLE IF NOT EXISTS users (id BIGINT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL)";
        sqlx::query(table).execute(&pool).await?;
        Ok(Self(pool))
    }

    pub(crate) async fn find(&self, id: i64) -> sqlx::Result<Option<User>> {
        let query = sqlx::query_as("SELECT name, email FROM users WHERE id = $1").bind(id);
        let row: Option<(String, String)> = query.fetch_optional(&self.0).await?;
        Ok(row.map(|(name, email)| User { id, name, email }))
    }

    pub(crate) async fn put(&self, user: User) -> sqlx::Result<Put> {
        let update = sqlx::query("UPDATE users SET name = $2, email = $3 WHERE id = $1");
        let updated = update.bind(user.id).bind(&user.name).bind(&user.email).execute(&self.0).await?;
        if updated.rows_affected() > 0 {
            return Ok(Put::Replaced);
        }
        let insert = sqlx::query(
            "INSERT INTO users (id, name, email) VALUES ($1, $2, $3) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email",
        );
        insert.bind(user.id).bind(user.name).bind(user.email).execute(&self.0).await?;
        Ok(Put::Created)
    }

    /// Returns `true` if there was such a user.
    pub(crate) async fn delete(&self, id: i64) -> sqlx::Result<bool> {
        let deleted = sqlx::query("DELETE FROM users WHERE id = $1").bind(id).execute(&self.0).await?;
        Ok(deleted.rows_affected() > 0)
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }
}
