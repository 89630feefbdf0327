//! What SQL costs below a chain, beside plain sqlx.

use std::{hint::black_box, io, time::Instant};

use cache_core::{Entry, Expiry, Key, Store as _, Ticket, Write};
use integration_tests::{SqlKind, SqlPlace};
use sqlx::{MySql, MySqlPool, PgPool, Postgres, QueryBuilder, Sqlite, SqlitePool};
use store_sql::SqlStore;

use crate::measure::{Contest, Options, Sample};

/// Measures one call after the other to private servers: by plain sqlx, which writes in a
/// transaction and keeps no lease and no expiry, and by the store.
#[derive(clap::Args)]
pub(crate) struct SqlCost {
    #[command(flatten)]
    options: Options,
    /// The databases
    #[arg(long, value_delimiter = ',', default_value = "mariadb,postgres,sqlite")]
    databases: Vec<Database>,
    /// The calls of one round
    #[arg(long, default_value_t = 200)]
    calls: usize,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Database {
    Mariadb,
    Postgres,
    Sqlite,
}

const KEYS: usize = 200;
const BATCH: usize = 100;
const SIZE: usize = 200;

impl SqlCost {
    pub(crate) async fn run(self) -> io::Result<()> {
        for database in &self.databases {
            match database {
                Database::Mariadb => self.measure::<MySqlPool>(SqlKind::MySql, "MariaDB").await?,
                Database::Postgres => self.measure::<PgPool>(SqlKind::Postgres, "PostgreSQL").await?,
                Database::Sqlite => self.measure::<SqlitePool>(SqlKind::Sqlite, "SQLite").await?,
            }
        }
        Ok(())
    }

    async fn measure<P: Plain>(&self, kind: SqlKind, name: &str) -> io::Result<()> {
        let place = SqlPlace::of(kind).await;
        // The store creates the file of SQLite.
        let store = place.store::<Vec<u8>>().await;
        let plain = P::create(&place.url).await;
        let keys = Key::many(0..KEYS as u64).expect("valid keys");
        let ids: Vec<Vec<u8>> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        plain.set(&ids).await;
        set(&store, &keys).await;
        for (size, calls) in [(1, self.calls), (BATCH, self.calls / 10)] {
            let batch = |at: usize| at * size % (KEYS - size + 1)..;
            let what =
                |operation: &str| if size == 1 { operation.to_owned() } else { format!("{operation}_many({size})") };
            let mut contest = Contest::new(format!("{name}: {}", what("get")), "µs");
            contest.add("sqlx", || timed(calls, async |at| plain.get(&ids[batch(at)][..size]).await));
            contest.add("store-sql", || timed(calls, async |at| get(&store, &keys[batch(at)][..size]).await));
            contest.run(&self.options).await?;
            let mut contest = Contest::new(format!("{name}: {}", what("set")), "µs");
            contest.add("sqlx", || timed(calls, async |at| plain.set(&ids[batch(at)][..size]).await));
            contest.add("store-sql", || timed(calls, async |at| set(&store, &keys[batch(at)][..size]).await));
            contest.run(&self.options).await?;
        }
        Ok(())
    }
}

async fn get(store: &SqlStore<Vec<u8>>, keys: &[Key]) {
    match keys {
        [key] => assert!(store.get(key).await.expect("an answer").is_some()),
        _ => assert!(store.get_many(keys).await.iter().all(|found| matches!(found, Ok(Some(_))))),
    }
}

async fn set(store: &SqlStore<Vec<u8>>, keys: &[Key]) {
    let write =
        |key: &Key| Write::new(key.clone(), Entry::new(vec![b'v'; SIZE], Expiry::Never), Ticket::unconditional());
    match keys {
        [key] => store.set(write(key)).await.expect("it is set"),
        _ => assert!(store.set_many(keys.iter().map(write).collect()).await.iter().all(Result::is_ok)),
    }
}

/// The mean time of one call, of `count` one after the other.
async fn timed(count: usize, call: impl AsyncFn(usize)) -> Sample {
    let started = Instant::now();
    for at in 0..count {
        call(at).await;
    }
    Sample::of(started.elapsed().as_secs_f64() * 1e6 / count as f64)
}

/// The same operations by plain sqlx.
trait Plain {
    /// Connects, and creates the table.
    async fn create(url: &str) -> Self;
    async fn get(&self, ids: &[Vec<u8>]);
    async fn set(&self, ids: &[Vec<u8>]);
}

macro_rules! plain {
    ($pool:ty, $database:ty, $id:literal, $bytes:literal, $upsert:literal) => {
        impl Plain for $pool {
            async fn create(url: &str) -> Self {
                let pool = Self::connect(url).await.expect("a pool");
                let create = concat!("CREATE TABLE plain_cost (id ", $id, " PRIMARY KEY, value ", $bytes, ")");
                sqlx::query(create).execute(&pool).await.expect("a table");
                pool
            }

            async fn get(&self, ids: &[Vec<u8>]) {
                let mut query = QueryBuilder::<$database>::new("SELECT id, value FROM plain_cost WHERE id IN (");
                let mut list = query.separated(", ");
                for id in ids {
                    list.push_bind(id.clone());
                }
                query.push(")");
                black_box(query.build().fetch_all(self).await.expect("rows"));
            }

            async fn set(&self, ids: &[Vec<u8>]) {
                let mut transaction = self.begin().await.expect("a transaction");
                let mut query = QueryBuilder::<$database>::new("INSERT INTO plain_cost (id, value) ");
                query.push_values(ids, |mut row, id| {
                    row.push_bind(id.clone()).push_bind(vec![b'v'; SIZE]);
                });
                query.push($upsert);
                query.build().execute(&mut *transaction).await.expect("it is set");
                transaction.commit().await.expect("a commit");
            }
        }
    };
}

plain!(MySqlPool, MySql, "VARBINARY(255)", "LONGBLOB", " ON DUPLICATE KEY UPDATE value = VALUES(value)");
plain!(PgPool, Postgres, "BYTEA", "BYTEA", " ON CONFLICT (id) DO UPDATE SET value = excluded.value");
plain!(SqlitePool, Sqlite, "BLOB", "BLOB", " ON CONFLICT (id) DO UPDATE SET value = excluded.value");
