//! What the SQL store costs, side by side with plain sqlx on a table of the same shape, on private
//! servers.
//!
//! `cargo run --release --example sql_cost`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use cache_core::{Entry, Expiry, Key, Store as _, Ticket, Write};
use integration_tests::{SqlKind, SqlPlace};
use sqlx::{AssertSqlSafe, QueryBuilder};

const KEYS: u32 = 200;
const BATCH: usize = 100;
const ROUNDS: usize = 7;

/// The same operations by plain sqlx: one statement each, outside of transactions, no lease, no
/// expiry, no checks.
macro_rules! plain {
    ($pool:ty, $database:ty, $bytes:expr, $upsert:literal, $place:expr) => {{
        let pool = <$pool>::connect(&$place.url).await.expect("a pool");
        let create = format!("CREATE TABLE plain_cost (id {} PRIMARY KEY, value {})", $bytes.0, $bytes.1);
        sqlx::query(AssertSqlSafe(create)).execute(&pool).await.expect("a table");
        let value = b"v".repeat(200);
        let (pool, value) = (&pool, &value);
        let set_many = async |ids: &[Vec<u8>]| {
            let mut query = QueryBuilder::<$database>::new("INSERT INTO plain_cost (id, value) ");
            query.push_values(ids, |mut row, id| {
                row.push_bind(id.clone()).push_bind(value.clone());
            });
            query.push(" ").push($upsert);
            query.build().execute(pool).await.expect("a set");
        };
        let get_many = async |ids: &[Vec<u8>]| {
            let mut query = QueryBuilder::<$database>::new("SELECT id, value FROM plain_cost WHERE id IN (");
            let mut list = query.separated(", ");
            for id in ids {
                list.push_bind(id.clone());
            }
            query.push(")");
            black_box(query.build().fetch_all(pool).await.expect("a get"));
        };
        let ids: Vec<Vec<u8>> = (0..KEYS).map(|at| at.to_string().into_bytes()).collect();
        set_many(&ids[..BATCH]).await;
        set_many(&ids[BATCH..]).await;
        let mut best = [Duration::MAX; 4];
        for _ in 0..ROUNDS {
            let round = [
                timed(KEYS, async |at| get_many(&ids[at..=at]).await).await,
                timed(KEYS, async |at| set_many(&ids[at..=at]).await).await,
                timed(10, async |_| get_many(&ids[..BATCH]).await).await,
                timed(10, async |_| set_many(&ids[..BATCH]).await).await,
            ];
            best = [0, 1, 2, 3].map(|at: usize| best[at].min(round[at]));
        }
        best
    }};
}

#[tokio::main]
async fn main() {
    println!("{:10} {:>22} {:>22} {:>22} {:>22}", "", "get", "set", "get_many of 100", "set_many of 100");
    for kind in [SqlKind::MySql, SqlKind::Postgres, SqlKind::Sqlite] {
        let place = SqlPlace::of(kind).await;
        let ours = ours(&place).await;
        let plain = match kind {
            SqlKind::MySql => plain!(
                sqlx::MySqlPool,
                sqlx::MySql,
                ("VARBINARY(255)", "LONGBLOB"),
                "ON DUPLICATE KEY UPDATE value = VALUES(value)",
                place
            ),
            SqlKind::Postgres => plain!(
                sqlx::PgPool,
                sqlx::Postgres,
                ("BYTEA", "BYTEA"),
                "ON CONFLICT (id) DO UPDATE SET value = excluded.value",
                place
            ),
            SqlKind::Sqlite => plain!(
                sqlx::SqlitePool,
                sqlx::Sqlite,
                ("BLOB", "BLOB"),
                "ON CONFLICT (id) DO UPDATE SET value = excluded.value",
                place
            ),
        };
        print!("{:10}", format!("{kind:?}"));
        for (ours, plain) in ours.into_iter().zip(plain) {
            print!(" {:>14.1?} = {:4.2} x", ours, ours.as_secs_f64() / plain.as_secs_f64());
        }
        println!();
    }
}

async fn ours(place: &SqlPlace) -> [Duration; 4] {
    let store = place.store::<Vec<u8>>().await;
    let keys = Key::many(0..KEYS).expect("good keys");
    let write = |key: &Key| Write {
        key: key.clone(),
        entry: Entry::new(b"v".repeat(200), Expiry::Never),
        ticket: Ticket::unconditional(),
    };
    for set in store.set_many(keys.iter().map(write).collect()).await {
        set.expect("a set");
    }
    let mut best = [Duration::MAX; 4];
    for _ in 0..ROUNDS {
        let round = [
            timed(KEYS, async |at| {
                black_box(store.get(&keys[at]).await.expect("a get"));
            })
            .await,
            timed(KEYS, async |at| store.set(write(&keys[at])).await.expect("a set")).await,
            timed(10, async |_| {
                black_box(store.get_many(&keys[..BATCH]).await);
            })
            .await,
            timed(10, async |_| {
                black_box(store.set_many(keys[..BATCH].iter().map(write).collect()).await);
            })
            .await,
        ];
        best = [0, 1, 2, 3].map(|at: usize| best[at].min(round[at]));
    }
    best
}

/// The time of one call, of `count` one after the other.
async fn timed(count: u32, call: impl AsyncFn(usize)) -> Duration {
    let started = Instant::now();
    for at in 0..count {
        call(at as usize).await;
    }
    started.elapsed() / count
}
