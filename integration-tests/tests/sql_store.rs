//! What `SqlStore` keeps and how, in each database.

use std::time::Duration;

use cache_core::{
    Clock as _, Entry, ErrorKind, Expiry, Key, Lifetime, MAX_TTL, ManualClock, SharedClock, Store as _, SystemClock,
    Ticket, Ttl, Write, codec,
};
use integration_tests::{SqlKind, SqlPlace, all, eventually, key, living, never, on_each_database, remaining, value};
use store_sql::SqlStore;

on_each_database!(
    the_table_is_readable,
    any_bytes_are_keys_of_their_own,
    a_long_key_is_compared_as_a_whole,
    lives_are_exact_to_the_millisecond,
    short_lives_end,
    the_clock_of_the_database_decides,
    a_clock_that_is_set_back_lengthens_no_life,
    a_fill_with_less_than_a_millisecond_is_refused,
    a_life_that_is_over_removes,
    a_batch_does_what_its_parts_would,
    a_batch_may_be_large,
    caches_share_a_table,
    clear_removes_many,
    sweeping_removes_what_has_expired_and_nothing_else,
    the_background_sweeps_and_ends_with_the_last_handle,
    a_pool_of_the_application_serves,
    other_codecs_and_schemas_are_errors,
    tables_have_any_good_name,
    an_older_value_goes_when_the_new_one_does_not_fit,
);

fn owned(text: &str) -> String {
    text.to_owned()
}

async fn the_table_is_readable(place: SqlPlace) {
    let store: SqlStore<String> = place.store().await;
    store.set(never(&key("acme:42"), owned("v"), Ticket::unconditional())).await.unwrap();
    let id = place.bytes(b"acme:42");
    let found = format!("SELECT COUNT(*) FROM {{t}} WHERE namespace = 'n' AND id = {id} AND expires_at IS NULL");
    assert_eq!(place.number(&found).await, Some(1));
    place.execute(&format!("DELETE FROM {{t}} WHERE namespace = 'n' AND id = {id}")).await;
    assert_eq!(value(&store, &key("acme:42")).await, None);
    assert_eq!(format!("{:?}", store.profile().name), format!("{:?}", name(place.kind)));
    assert!(store.profile().leases && store.profile().retains);
}

fn name(kind: SqlKind) -> &'static str {
    match kind {
        SqlKind::MySql => "mysql",
        SqlKind::Postgres => "postgres",
        SqlKind::Sqlite => "sqlite",
    }
}

async fn any_bytes_are_keys_of_their_own(place: SqlPlace) {
    let store: SqlStore<String> = place.store().await;
    let mut all: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![byte]).collect();
    all.extend([b"a ".to_vec(), b"a  ".to_vec(), b"a\0".to_vec(), b"\0a".to_vec(), b"\0\0".to_vec()]);
    all.extend([vec![0; 33], vec![b'x'; 255], vec![b'x'; 256], vec![b'y'; 256], vec![0xff; 65_536]]);
    all.extend(["é".into(), "e\u{301}".into(), "ß".into(), "ss".into()]);
    let keys = Key::many(all).unwrap();
    let writes = keys.iter().enumerate().map(|(at, key)| never(key, at.to_string(), Ticket::unconditional()));
    for result in store.set_many(writes.collect()).await {
        result.unwrap();
    }
    for (at, found) in store.get_many(&keys).await.into_iter().enumerate() {
        assert_eq!(found.unwrap().unwrap().into_value().unwrap(), at.to_string());
    }
    assert_eq!(usize::try_from(place.rows().await).unwrap(), keys.len());
}

async fn a_long_key_is_compared_as_a_whole(place: SqlPlace) {
    let store: SqlStore<String> = place.store().await;
    let (long, short) = (key("k".repeat(300).as_str()), key("short"));
    store.set(never(&long, owned("long"), Ticket::unconditional())).await.unwrap();
    store.set(never(&short, owned("short"), Ticket::unconditional())).await.unwrap();
    assert_eq!(place.number("SELECT COUNT(*) FROM {t} WHERE full_key IS NULL").await, Some(1));
    assert_eq!(place.number("SELECT MAX(LENGTH(id)) + 0 * MAX(write_id) FROM {t}").await, Some(33));
    assert_eq!(value(&store, &long).await.as_deref(), Some("long"));
    // As if two keys had one digest.
    let other = place.bytes("l".repeat(300).as_bytes());
    place.execute(&format!("UPDATE {{t}} SET full_key = {other} WHERE full_key IS NOT NULL")).await;
    assert_eq!(value(&store, &long).await, None);
    assert_eq!(all(store.get_many(&[long.clone(), short.clone()]).await)[0], None);
    store.set(never(&long, owned("again"), Ticket::unconditional())).await.unwrap();
    assert_eq!(value(&store, &long).await.as_deref(), Some("again"));
    assert_eq!(place.rows().await, 2);
    // By a ticket, too.
    let ticket = store.lease(&long).await.unwrap();
    place.execute(&format!("UPDATE {{t}} SET full_key = {other} WHERE full_key IS NOT NULL")).await;
    assert!(store.fill(never(&long, owned("filled"), ticket)).await.unwrap());
    assert_eq!(value(&store, &long).await.as_deref(), Some("filled"));
    place.execute(&format!("UPDATE {{t}} SET full_key = {other} WHERE full_key IS NOT NULL")).await;
    let lifetime = Lifetime::new(Expiry::after(SystemClock.now(), Duration::from_secs(60).into()));
    assert!(!store.touch(&long, lifetime, SystemClock.now()).await.unwrap());
    assert_eq!(place.number("SELECT COUNT(*) FROM {t} WHERE expires_at IS NOT NULL").await, Some(0));
    assert_eq!(store.take(&long).await.unwrap(), None);
    assert_eq!(place.rows().await, 1, "it is removed, as by a del");
}

/// A store whose clock stands still.
async fn still(place: &SqlPlace) -> (SqlStore<String>, SharedClock) {
    let clock = ManualClock::new();
    (place.builder().clock(clock.shared()).connect().await.unwrap(), clock.shared())
}

fn write(clock: &SharedClock, key: &Key, ttl: Duration, ticket: Ticket) -> Write<String> {
    Write::new(key.clone(), Entry::new(owned("v"), Expiry::after(clock.now(), Ttl::After(ttl))), ticket)
}

async fn lives_are_exact_to_the_millisecond(place: SqlPlace) {
    let years = Duration::from_secs(10 * 365 * 24 * 3600);
    for (ttl, millis) in [
        (Duration::from_millis(999), 999),
        (Duration::from_micros(7_654_321), 7_654),
        (Duration::from_secs(60), 60_000),
        (years, i64::try_from(years.as_millis()).unwrap()),
        (Duration::MAX, i64::try_from(MAX_TTL.as_millis()).unwrap()),
    ] {
        // It learns the database's time at its first write; as its own clock stands still, that
        // would not go on.
        let (store, clock) = still(&place).await;
        let before = place.number("SELECT {now}").await.unwrap();
        store.set(write(&clock, &key("k"), ttl, Ticket::unconditional())).await.unwrap();
        let after = place.number("SELECT {now}").await.unwrap();
        let written = place.number("SELECT expires_at FROM {t}").await.unwrap();
        // The other way of asking for the time rounds otherwise.
        assert!((before + millis - 1..=after + millis + 1).contains(&written), "{ttl:?}: {before} {written} {after}");
        if let Some(entry) = store.get(&key("k")).await.unwrap() {
            let Ttl::After(left) = entry.remaining(clock.now()) else { panic!("{ttl:?} became never") };
            assert!(left <= ttl.min(MAX_TTL), "{ttl:?} became {left:?}");
        } else {
            assert_eq!(millis, 999, "it may be over on a busy machine");
        }
    }
    let store = place.store().await;
    store.set(never(&key("k"), owned("v"), Ticket::unconditional())).await.unwrap();
    assert_eq!(place.number("SELECT expires_at FROM {t}").await, None);
    assert_eq!(store.get(&key("k")).await.unwrap().unwrap().expiry(), Expiry::Never);
}

async fn short_lives_end(place: SqlPlace) {
    let (store, clock) = still(&place).await;
    for ttl in [Duration::from_nanos(1), Duration::from_millis(1)] {
        store.set(write(&clock, &key("k"), ttl, Ticket::unconditional())).await.unwrap();
        let life = place.number("SELECT expires_at - {now} FROM {t}").await.unwrap();
        assert!(life <= 2, "{life}");
        eventually("the end", async || value(&store, &key("k")).await.is_none().then_some(())).await;
    }
}

async fn the_clock_of_the_database_decides(place: SqlPlace) {
    let (store, clock) = still(&place).await;
    let minute = Duration::from_secs(60);
    store.set(write(&clock, &key("k"), minute, Ticket::unconditional())).await.unwrap();
    assert_eq!(value(&store, &key("k")).await.as_deref(), Some("v"));
    place.execute("UPDATE {t} SET expires_at = expires_at - 50000").await;
    let left = store.get(&key("k")).await.unwrap().unwrap().remaining(clock.now()).as_duration().unwrap();
    assert!(left <= minute / 6, "{left:?}");
    // The store's own clock stands still, so only that of the database can end this.
    store.set(write(&clock, &key("k"), Duration::from_millis(300), Ticket::unconditional())).await.unwrap();
    eventually("the end", async || value(&store, &key("k")).await.is_none().then_some(())).await;
    assert_eq!(place.rows().await, 1, "it is a miss before it is removed");
    assert_eq!(all(store.get_many(&[key("k")]).await), [None]);
}

async fn a_clock_that_is_set_back_lengthens_no_life(place: SqlPlace) {
    let (store, clock) = still(&place).await;
    let minute = Duration::from_secs(60);
    store.set(write(&clock, &key("k"), minute, Ticket::unconditional())).await.unwrap();
    // As if it had been written while the clock was an hour ahead.
    place.execute("UPDATE {t} SET written_at = written_at + 3600000, expires_at = expires_at + 3600000").await;
    assert_eq!(store.get(&key("k")).await.unwrap(), None, "when it was written is unknown");
}

async fn a_fill_with_less_than_a_millisecond_is_refused(place: SqlPlace) {
    let (store, clock) = still(&place).await;
    let ticket = store.lease(&key("k")).await.unwrap();
    let short = |ticket| write(&clock, &key("k"), Duration::from_micros(999), ticket);
    assert!(!store.fill(short(ticket)).await.unwrap());
    assert!(!store.fill(short(Ticket::unconditional())).await.unwrap());
    assert_eq!(place.number("SELECT COUNT(*) FROM {t} WHERE value IS NOT NULL").await, Some(0));
    assert!(store.fill(write(&clock, &key("k"), Duration::from_secs(9), ticket)).await.unwrap());
    // Nor is it a lifetime for a touch.
    store.set(never(&key("k"), owned("v"), Ticket::unconditional())).await.unwrap();
    let lifetime = |ttl| Lifetime::new(Expiry::after(clock.now(), Ttl::After(ttl)));
    assert!(!store.touch(&key("k"), lifetime(Duration::from_micros(999)), clock.now()).await.unwrap());
    assert_eq!(store.get(&key("k")).await.unwrap().unwrap().expiry(), Expiry::Never);
    assert!(store.touch(&key("k"), lifetime(Duration::from_secs(60)), clock.now()).await.unwrap());
}

async fn a_life_that_is_over_removes(place: SqlPlace) {
    let store: SqlStore<String> = place.store().await;
    store.set(never(&key("k"), owned("v"), Ticket::unconditional())).await.unwrap();
    store.set(living(&key("k"), owned("w"), Duration::ZERO)).await.unwrap();
    assert_eq!(place.rows().await, 0);
}

async fn a_batch_does_what_its_parts_would(place: SqlPlace) {
    let store: SqlStore<String> = place.store().await;
    let (k, l) = (key("k"), key("l"));
    let put = |key: &Key, value: &str, ticket| never(key, owned(value), ticket);
    let any = Ticket::unconditional();
    // The last of a key wins.
    let sets = vec![put(&k, "1", any), put(&l, "2", any), put(&k, "3", any)];
    assert_eq!(all(store.set_many(sets).await), [(), (), ()]);
    let found = all(store.get_many(&[k.clone(), l.clone(), k.clone(), key("absent")]).await);
    let found: Vec<_> = found.into_iter().map(|found| found.and_then(Entry::into_value)).collect();
    assert_eq!(found, [Some(owned("3")), Some(owned("2")), Some(owned("3")), None]);
    // The first voids the ticket of the second.
    let tickets = all(store.lease_many(&[k.clone(), k.clone()]).await);
    assert_eq!(tickets[0], tickets[1]);
    all(store.set_many(vec![put(&k, "4", tickets[0]), put(&k, "5", tickets[0])]).await);
    assert_eq!(value(&store, &k).await, None);
    // A fill voids nobody.
    let ticket = store.lease(&k).await.unwrap();
    let fills = vec![put(&k, "6", ticket), put(&l, "7", Ticket::at(0)), put(&k, "8", ticket)];
    assert_eq!(all(store.fill_many(fills).await), [true, false, true]);
    assert_eq!(value(&store, &k).await.as_deref(), Some("8"));
    assert_eq!(value(&store, &l).await.as_deref(), Some("2"));
    assert_eq!(all(store.del_many(&[k.clone(), k, l]).await), [(), (), ()]);
    assert_eq!(place.rows().await, 0);
}

async fn a_batch_may_be_large(place: SqlPlace) {
    let deadline = Duration::from_secs(60);
    let store: SqlStore<u64> = place.builder().timeout(deadline).connect().await.unwrap();
    // More than one statement may name, and for SQLite more than it has variables.
    let keys: Vec<Key> = (0..3000_u64).map(|number| key(number.to_string().as_str())).collect();
    let tickets = store.lease_many(&keys).await;
    let writes = (0..).zip(&keys).zip(tickets).map(|((value, key), ticket)| never(key, value, ticket.unwrap()));
    let writes: Vec<_> = writes.collect();
    assert!(store.fill_many(writes.clone()).await.into_iter().all(|filled| filled.unwrap()));
    assert!(store.set_many(writes).await.into_iter().all(|set| set.is_ok()));
    for (value, found) in (0..).zip(store.get_many(&keys).await) {
        assert_eq!(found.unwrap().unwrap().into_value().unwrap(), value);
    }
    assert!(store.del_many(&keys).await.into_iter().all(|del| del.is_ok()));
    assert_eq!(place.rows().await, 0);
    // Values of 24 MiB in all, more than a statement of MariaDB may have.
    let large: SqlStore<Vec<u8>> = place.builder().namespace("large").timeout(deadline).connect().await.unwrap();
    let writes = keys[..24].iter().map(|key| never(key, vec![7; 1 << 20], Ticket::unconditional())).collect();
    assert!(large.set_many(writes).await.into_iter().all(|set| set.is_ok()));
    for found in large.get_many(&keys[..24]).await {
        assert_eq!(found.unwrap().unwrap().into_value().unwrap().len(), 1 << 20);
    }
}

async fn caches_share_a_table(place: SqlPlace) {
    let users: SqlStore<String> = place.store().await;
    let orders: SqlStore<u64> = SqlStore::builder_on(&users)
        .table(&place.table)
        .namespace("N")
        .sweep_every(None)
        .codec(codec::Bincode)
        .connect()
        .await
        .unwrap();
    users.set(never(&key("k"), owned("user"), Ticket::unconditional())).await.unwrap();
    orders.set(never(&key("k"), 7, Ticket::unconditional())).await.unwrap();
    assert_eq!(place.rows().await, 2);
    let ticket = users.lease(&key("k")).await.unwrap();
    orders.clear().await.unwrap();
    assert_eq!(orders.get(&key("k")).await.unwrap(), None);
    assert_eq!(value(&users, &key("k")).await.as_deref(), Some("user"));
    assert!(users.fill(never(&key("k"), owned("new"), ticket)).await.unwrap(), "its tickets are not void");
    orders.set(never(&key("k"), 7, Ticket::unconditional())).await.unwrap();
    users.del(&key("k")).await.unwrap();
    assert_eq!(orders.get(&key("k")).await.unwrap().unwrap().into_value().unwrap(), 7);
}

async fn clear_removes_many(place: SqlPlace) {
    let store: SqlStore<u64> = place.builder().timeout(Duration::from_secs(60)).connect().await.unwrap();
    let other: SqlStore<u64> = place.builder().namespace("other").connect().await.unwrap();
    let keys: Vec<Key> = (0..1200_u64).map(key).collect();
    let writes = keys.iter().map(|key| never(key, 1, Ticket::unconditional())).collect();
    assert!(store.set_many(writes).await.into_iter().all(|set| set.is_ok()));
    other.set(never(&keys[0], 2, Ticket::unconditional())).await.unwrap();
    let ticket = store.lease(&key("marker")).await.unwrap();
    store.clear().await.unwrap();
    assert_eq!(place.rows().await, 1);
    assert!(!store.fill(never(&key("marker"), 3, ticket)).await.unwrap());
    assert_eq!(other.get(&keys[0]).await.unwrap().unwrap().into_value().unwrap(), 2);
}

async fn sweeping_removes_what_has_expired_and_nothing_else(place: SqlPlace) {
    let store: SqlStore<u64> = place.builder().timeout(Duration::from_secs(60)).connect().await.unwrap();
    let keys: Vec<Key> = (0..1100_u64).map(key).collect();
    let hour = Duration::from_secs(3600);
    let writes = keys.iter().map(|key| living(key, 1, hour)).collect();
    assert!(store.set_many(writes).await.into_iter().all(|set| set.is_ok()));
    place.execute("UPDATE {t} SET expires_at = 1").await;
    let other: SqlStore<u64> = place.builder().namespace("other").connect().await.unwrap();
    other.set(living(&key("k"), 2, hour)).await.unwrap();
    other.set(never(&key("l"), 3, Ticket::unconditional())).await.unwrap();
    let ticket = other.lease(&key("marker")).await.unwrap();
    assert_eq!(store.get(&keys[0]).await.unwrap(), None);
    assert_eq!(place.rows().await, 1103);
    store.sweep().await.unwrap();
    assert_eq!(place.rows().await, 3);
    assert!(other.fill(never(&key("marker"), 4, ticket)).await.unwrap());
    assert_eq!(other.get(&key("k")).await.unwrap().unwrap().into_value().unwrap(), 2);
    assert_eq!(other.get(&key("l")).await.unwrap().unwrap().into_value().unwrap(), 3);
}

async fn the_background_sweeps_and_ends_with_the_last_handle(place: SqlPlace) {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let store: SqlStore<u64> = place.builder().sweep_every(Duration::from_millis(20)).connect().await.unwrap();
    let clone = store.clone();
    drop(store);
    let expire = async || {
        clone.set(living(&key("k"), 1, Duration::from_secs(60))).await.unwrap();
        place.execute("UPDATE {t} SET expires_at = 1").await;
    };
    expire().await;
    eventually("the sweep", async || (place.rows().await == 0).then_some(())).await;
    assert!(tasks() > before, "the sweeper is a task");
    drop(clone);
    eventually("the end of the store's tasks", async || (tasks() <= before).then_some(())).await;
    let store: SqlStore<u64> = place.store().await;
    store.set(living(&key("k"), 1, Duration::from_secs(60))).await.unwrap();
    place.execute("UPDATE {t} SET expires_at = 1").await;
    assert_eq!(place.rows().await, 1, "the first store sweeps after its end");
}

async fn a_pool_of_the_application_serves(place: SqlPlace) {
    let builder = match place.kind {
        SqlKind::MySql => SqlStore::<String>::on_mysql(sqlx::MySqlPool::connect(&place.url).await.unwrap()),
        SqlKind::Postgres => SqlStore::on_postgres(sqlx::PgPool::connect(&place.url).await.unwrap()),
        SqlKind::Sqlite => {
            place.store::<String>().await;
            SqlStore::on_sqlite(sqlx::SqlitePool::connect(&place.url).await.unwrap())
        }
    };
    let store = builder.namespace("n").table(&place.table).create_table().connect().await.unwrap();
    let ticket = store.lease(&key("k")).await.unwrap();
    assert!(store.fill(never(&key("k"), owned("v"), ticket)).await.unwrap());
    store.set(never(&key("k"), owned("w"), ticket)).await.unwrap();
    let left = remaining(&{
        store.set(living(&key("l"), owned("x"), Duration::from_secs(9))).await.unwrap();
        store.get(&key("l")).await.unwrap().unwrap()
    });
    assert!(left <= Duration::from_secs(9), "{left:?}");
    assert_eq!(value(&store, &key("k")).await.as_deref(), Some("w"));
}

async fn other_codecs_and_schemas_are_errors(place: SqlPlace) {
    let store: SqlStore<String> = place.builder().schema("user/1").connect().await.unwrap();
    store.set(never(&key("k"), owned("v"), Ticket::unconditional())).await.unwrap();
    let newer: SqlStore<String> = place.builder().schema("user/2").connect().await.unwrap();
    assert_eq!(newer.get(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec);
    let json: SqlStore<String, _> = place.builder().schema("user/1").codec(codec::Json).connect().await.unwrap();
    assert_eq!(json.get(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec);
    // In a batch it is the error of its own key only.
    newer.set(never(&key("l"), owned("w"), Ticket::unconditional())).await.unwrap();
    let found = newer.get_many(&[key("k"), key("l")]).await;
    assert_eq!(found[0].as_ref().unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(found[1].as_ref().unwrap().as_ref().unwrap().value().unwrap(), "w");
    // It can be replaced, by ticket.
    let ticket = newer.lease(&key("k")).await.unwrap();
    assert!(newer.fill(never(&key("k"), owned("x"), ticket)).await.unwrap());
    assert_eq!(value(&newer, &key("k")).await.as_deref(), Some("x"));
}

async fn tables_have_any_good_name(place: SqlPlace) {
    let longest = if place.kind == SqlKind::Postgres { 63 } else { 64 };
    let (a, b) = ("x".repeat(longest - 1) + "a", "x".repeat(longest - 1) + "b");
    for name in ["select", "Cache_9", "9", &a, &b] {
        let build = || place.builder::<String>().table(name).connect();
        // Two that create it at once are both served.
        let (first, second) = tokio::join!(build(), build());
        let (first, second) = (first.unwrap(), second.unwrap());
        first.set(never(&key("k"), owned(name), Ticket::unconditional())).await.unwrap();
        assert_eq!(value(&second, &key("k")).await.as_deref(), Some(name));
    }
    for name in ["", "a b", "a`b", "a\"b", "a.b", &"x".repeat(longest + 1)] {
        let error = place.builder::<String>().table(name).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
    }
}

async fn an_older_value_goes_when_the_new_one_does_not_fit(place: SqlPlace) {
    let store: SqlStore<String> = place.store().await;
    for with_ticket in [false, true] {
        for name in ["k", "l"] {
            store.set(never(&key(name), owned("old"), Ticket::unconditional())).await.unwrap();
        }
        let ticket = if with_ticket { store.lease(&key("k")).await.unwrap() } else { Ticket::unconditional() };
        // The envelope has its limit, of 16 MiB.
        let writes = vec![
            never(&key("k"), "v".repeat(17 << 20), ticket),
            never(&key("l"), owned("new"), Ticket::unconditional()),
        ];
        let results = store.set_many(writes).await;
        assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::Codec);
        results[1].as_ref().unwrap();
        assert_eq!(value(&store, &key("k")).await, None);
        assert_eq!(value(&store, &key("l")).await.as_deref(), Some("new"));
    }
    if place.kind == SqlKind::MySql {
        // And MariaDB has one of its own, for statements.
        store.set(never(&key("k"), owned("old"), Ticket::unconditional())).await.unwrap();
        let large = "v".repeat((16 << 20) - 8);
        let error = store.set(never(&key("k"), large, Ticket::unconditional())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
        assert!(error.to_string().contains("was removed"), "{error}");
        assert_eq!(value(&store, &key("k")).await, None);
    }
}
