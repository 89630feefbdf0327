//! What a database refuses, and what of it is shown.

use std::time::Duration;

use cache_core::{ErrorKind, Store as _, Ticket};
use integration_tests::{MariaDb, Postgres, SqlKind, SqlPlace, all, key, living, never, on_each_database, shown};
use store_sql::SqlStore;

on_each_database!(
    a_missing_table_says_how_to_create_it,
    a_table_of_another_shape_is_said,
    a_table_that_goes_away_is_said,
    what_cannot_be_used_is_said_before_anything_is_sent,
    the_table_is_that_of_the_readme,
);

async fn a_missing_table_says_how_to_create_it(place: SqlPlace) {
    place.execute("CREATE TABLE somewhere_else (id INTEGER); DROP TABLE somewhere_else").await;
    let builder = || SqlStore::<u64>::builder(&place.url).namespace("n").table(&place.table);
    let error = builder().connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
    assert!(error.to_string().contains(".create_table()") && error.to_string().contains("README"), "{error}");
    let lazy = builder().connect_lazy().unwrap();
    for error in [
        lazy.get(&key(1)).await.unwrap_err(),
        lazy.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap_err(),
        lazy.lease(&key(1)).await.unwrap_err(),
        lazy.clear().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
        assert!(error.to_string().contains(".create_table()"), "{error}");
    }
    builder().create_table().connect().await.unwrap();
    lazy.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap();
}

async fn a_table_of_another_shape_is_said(place: SqlPlace) {
    for (at, columns) in [
        "a INTEGER",
        "namespace VARCHAR(64), id VARCHAR(64), full_key VARCHAR(64), value VARCHAR(64), write_id VARCHAR(64)",
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("{}_{at}", place.table);
        place.execute(&format!("CREATE TABLE {table} ({columns})")).await;
        for create in [false, true] {
            let builder = SqlStore::<u64>::builder(&place.url).namespace("n").table(&table);
            let builder = if create { builder.create_table() } else { builder };
            let error = builder.connect().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
            assert!(error.to_string().contains("other columns or another primary key"), "{error:?}");
        }
    }
    // Right columns and no primary key: MySQL would quietly keep two rows of one key.
    place
        .execute(&{
            let bytes = if place.kind == SqlKind::Postgres { "BYTEA" } else { "BLOB" };
            format!(
                "CREATE TABLE {{t}} (namespace VARCHAR(64) NOT NULL, id {bytes} NOT NULL, full_key {bytes}, value {bytes}, \
                 write_id BIGINT NOT NULL, written_at BIGINT NOT NULL, expires_at BIGINT)"
            )
        })
        .await;
    let error = match SqlStore::<u64>::builder(&place.url).namespace("n").table(&place.table).connect().await {
        Err(error) => error,
        // The others say it when they are to write.
        Ok(store) => store.lease(&key(1)).await.unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
    assert!(error.to_string().contains("another primary key"), "{error:?}");
}

async fn a_table_that_goes_away_is_said(place: SqlPlace) {
    let store: SqlStore<String> = place.store().await;
    store.set(never(&key(1), "s3cret".to_owned(), Ticket::unconditional())).await.unwrap();
    place.execute("DROP TABLE {t}").await;
    let error = store.get(&key(1)).await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error:?}");
    let error = store.set(never(&key(1), "s3cret".to_owned(), Ticket::unconditional())).await.unwrap_err();
    assert!(!shown(&error).contains("s3cret"), "{}", shown(&error));
    place.store::<String>().await;
    store.set(never(&key(1), "new".to_owned(), Ticket::unconditional())).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value().unwrap(), "new");
}

async fn what_cannot_be_used_is_said_before_anything_is_sent(place: SqlPlace) {
    for url in [
        "",
        "s3cret",
        "http://user:s3cret@127.0.0.1/",
        "mysql://user:s3cret@127.0.0.1:port/",
        "postgres://user:s3cret@127.0.0.1:port/",
        "postgres://user:s3cret@127.0.0.1/?sslmode=s3cret",
        "mysql://user:s3cret@127.0.0.1/?ssl-mode=s3cret",
        "sqlite://s3cret?mode=s3cret",
        "sqlite::memory:",
        "sqlite://?mode=memory",
    ] {
        let builder = SqlStore::<u64>::builder(url).namespace("n");
        assert!(!format!("{builder:?}").contains("s3cret"), "{builder:?}");
        let error = builder.connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}: {error}");
        assert!(!shown(&error).contains("s3cret"), "{}", shown(&error));
    }
    let unnamed = SqlStore::<u64>::builder(&place.url).connect().await.unwrap_err();
    assert!(unnamed.to_string().contains(".namespace("), "{unnamed}");
    let builder = || place.builder::<u64>();
    for builder in [
        builder().namespace("a:b"),
        builder().table("a b"),
        builder().lease_ttl(Duration::ZERO),
        builder().lease_ttl(Duration::MAX),
        builder().timeout(Duration::ZERO),
        builder().max_connections(0),
        builder().max_connections(1025),
        builder().sweep_every(Duration::ZERO),
        builder().sweep_every(Duration::MAX),
    ] {
        assert_eq!(builder.connect().await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(builder().connect_lazy().unwrap_err().kind(), ErrorKind::InvalidInput, "it cannot create the table");
}

async fn the_table_is_that_of_the_readme(place: SqlPlace) {
    let readme = include_str!("../../store-sql/README.md");
    let (heading, other) = match place.kind {
        SqlKind::MySql => ("MySQL, MariaDB", include_str!("../../store-sql/sql/mysql.sql")),
        SqlKind::Postgres => ("PostgreSQL", include_str!("../../store-sql/sql/postgres.sql")),
        SqlKind::Sqlite => ("SQLite", include_str!("../../store-sql/sql/sqlite.sql")),
    };
    let after = readme.split(&format!("### {heading}\n")).nth(1).unwrap();
    let ddl = after.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(ddl, other, "what create_table does");
    place.execute(&ddl.replace("cache_entries", &place.table)).await;
    let builder = SqlStore::<u64>::builder(&place.url).namespace("n").table(&place.table);
    let store = builder.connect().await.unwrap();
    store.set(living(&key(1), 1, Duration::from_secs(60))).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value().unwrap(), 1);
}

#[tokio::test]
async fn credentials_are_refused_and_not_shown() {
    let (maria, postgres) = (MariaDb::shared().await, Postgres::shared().await);
    for url in [
        maria.url_as("app:wr0ng", "cache"),
        maria.url_as("mallory:wr0ng", "cache"),
        postgres.url_as("app:wr0ng", "postgres"),
        postgres.url_as("mallory:wr0ng", "postgres"),
    ] {
        let error = SqlStore::<u64>::builder(&url).namespace("n").connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{url}: {error:?}");
        let shown = shown(&error);
        assert!(!shown.contains("wr0ng") && !shown.contains("mallory") && !shown.contains("app"), "{shown}");
    }
    for url in [maria.url_as("app:hunter2", "nowhere"), postgres.url_as("app:hunter2", "nowhere")] {
        let error = SqlStore::<u64>::builder(&url).namespace("n").connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backend, "{url}: {error:?}");
        assert!(!shown(&error).contains("hunter2"));
    }
}

#[tokio::test]
async fn a_user_who_may_only_read_reads() {
    let maria = SqlPlace::of(SqlKind::MySql).await;
    let postgres = SqlPlace::of(SqlKind::Postgres).await;
    for place in [maria, postgres] {
        let store: SqlStore<u64> = place.store().await;
        store.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap();
        let create = match place.kind {
            SqlKind::MySql => {
                "CREATE USER reader@'127.0.0.1' IDENTIFIED BY 'pw'; GRANT SELECT ON cache.* TO reader@'127.0.0.1'"
            }
            _ => "CREATE USER reader PASSWORD 'pw'; GRANT SELECT ON {t} TO reader",
        };
        place.execute(create).await;
        let url = place.url.replace("app:hunter2", "reader:pw");
        let reader: SqlStore<u64> =
            SqlStore::builder(url).namespace("n").table(&place.table).sweep_every(None).connect().await.unwrap();
        assert_eq!(reader.get(&key(1)).await.unwrap().unwrap().into_value().unwrap(), 1);
        for error in [
            reader.set(never(&key(1), 2, Ticket::unconditional())).await.unwrap_err(),
            reader.del(&key(1)).await.unwrap_err(),
            reader.lease(&key(2)).await.unwrap_err(),
            reader.clear().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_read_only_database_is_said() {
    let maria = SqlPlace::of(SqlKind::MySql).await;
    let postgres = SqlPlace::of(SqlKind::Postgres).await;
    let sqlite = SqlPlace::of(SqlKind::Sqlite).await;
    for place in [maria, postgres, sqlite] {
        let store: SqlStore<u64> = place.store().await;
        store.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap();
        // The sessions of one user, in the place of a replica.
        let url = match place.kind {
            SqlKind::MySql => {
                let user = "CREATE USER ro@'127.0.0.1' IDENTIFIED BY 'pw'; GRANT ALL ON cache.* TO ro@'127.0.0.1'";
                place.execute(user).await;
                place.execute("SET GLOBAL read_only = 1").await;
                place.url.replace("app:hunter2", "ro:pw")
            }
            SqlKind::Postgres => format!("{}?options=-c%20default_transaction_read_only%3Don", place.url),
            SqlKind::Sqlite => format!("{}?mode=ro", place.url),
        };
        let reader: SqlStore<u64> =
            SqlStore::builder(url).namespace("n").table(&place.table).sweep_every(None).connect().await.unwrap();
        let kinds = [
            reader.set(never(&key(1), 2, Ticket::unconditional())).await.unwrap_err(),
            reader.del(&key(1)).await.unwrap_err(),
            reader.lease(&key(2)).await.unwrap_err(),
            reader.clear().await.unwrap_err(),
        ];
        let found = reader.get(&key(1)).await;
        if place.kind == SqlKind::MySql {
            place.execute("SET GLOBAL read_only = 0").await;
        }
        for error in kinds {
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "{:?}: {error:?}", place.kind);
        }
        assert_eq!(found.unwrap().unwrap().into_value().unwrap(), 1);
    }
}

/// A file that must not grow stands for a full disk: SQLite gives both the same error.
#[tokio::test]
async fn a_full_disk_refuses_and_the_older_value_goes() {
    let place = SqlPlace::of(SqlKind::Sqlite).await;
    place.store::<String>().await;
    let options = place.url.parse::<sqlx::sqlite::SqliteConnectOptions>().unwrap().pragma("max_page_count", "30");
    let pool = sqlx::sqlite::SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let builder = SqlStore::<String>::on_sqlite(pool).namespace("n").table(&place.table).sweep_every(None);
    let store = builder.connect().await.unwrap();
    let keys = [key("a"), key("b"), key("c")];
    all(store.set_many(keys.iter().map(|key| never(key, "old".to_owned(), Ticket::unconditional())).collect()).await);
    let ticket = store.lease(&keys[1]).await.unwrap();
    let large = || "v".repeat(200_000);
    for (at, ticket) in [(0, Ticket::unconditional()), (1, ticket)] {
        let error = store.set(never(&keys[at], large(), ticket)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
        assert!(error.to_string().contains("was removed"), "{error}");
        assert_eq!(store.get(&keys[at]).await.unwrap(), None);
    }
    let ticket = store.lease(&keys[0]).await.unwrap();
    assert_eq!(store.fill(never(&keys[0], large(), ticket)).await.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(store.get(&keys[2]).await.unwrap().unwrap().into_value().unwrap(), "old");
    store.set(never(&keys[0], "new".to_owned(), Ticket::unconditional())).await.unwrap();
    assert_eq!(store.get(&keys[0]).await.unwrap().unwrap().into_value().unwrap(), "new");
}

#[test]
fn outside_of_a_runtime_it_is_an_error_and_no_panic() {
    let builder = || SqlStore::<u64>::builder("sqlite://nowhere.db").namespace("n");
    assert_eq!(builder().connect_lazy().unwrap_err().kind(), ErrorKind::Closed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let place = runtime.block_on(SqlPlace::of(SqlKind::Sqlite));
    let store: SqlStore<u64> = runtime.block_on(place.store());
    let key = key(1);
    // Begun inside, dropped outside.
    let mut begun = Box::pin(store.set(never(&key, 1, Ticket::unconditional())));
    runtime.block_on(std::future::poll_fn(|context| {
        let _ = begun.as_mut().poll(context);
        std::task::Poll::Ready(())
    }));
    drop(begun);
    let error = cache_core::testkit::block_on(store.get(&key)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    drop(runtime);
    let error = cache_core::testkit::block_on(store.get(&key)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}
