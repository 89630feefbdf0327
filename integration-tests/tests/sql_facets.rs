//! What an entry says besides its value, kept in a table.

use std::{sync::Arc, time::Duration};

use cache_core::{Clock as _, Entry, Expiry, Moment, Store as _, SystemClock, Ticket, Write};
use integration_tests::{SqlPlace, key, on_each_database};
use store_sql::SqlStore;

on_each_database!(
    a_backfill_does_not_make_an_old_value_young,
    an_unknown_age_stays_unknown_in_a_fill_and_a_set_makes_a_new_value,
    the_news_that_there_is_no_value_is_kept,
    a_validator_is_kept_and_goes_with_its_value,
    a_database_whose_clock_was_set_back_makes_nothing_younger_than_its_write,
);

/// What a busy machine may add to an age; far less than the ages here.
const SLACK: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3600);

fn after(ttl: Duration) -> Expiry {
    Expiry::after(SystemClock.now(), ttl.into())
}

fn ago(time: Duration) -> Moment {
    SystemClock.now().minus(time).expect("the clock's origin is far away")
}

fn write(entry: &Entry<u32>, ticket: Ticket) -> Write<u32> {
    Write { key: key("k"), entry: entry.clone(), ticket }
}

async fn a_backfill_does_not_make_an_old_value_young(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let made = ago(HOUR);
    for expiry in [Expiry::Never, after(HOUR)] {
        let entry = Entry::new(1, expiry).created_at(made).loaded_in(Duration::from_millis(1_500));
        for _ in 0..3 {
            ours.del(&key("k")).await.unwrap();
            let ticket = ours.lease(&key("k")).await.unwrap();
            assert!(ours.fill(write(&entry, ticket)).await.unwrap());
            let found = theirs.get(&key("k")).await.unwrap().unwrap();
            let age = SystemClock.now().since(found.created().unwrap());
            assert!(age < HOUR + SLACK, "{age:?}");
            assert!(found.created().unwrap() <= made, "it looks younger than it is");
            assert_eq!(found.load_time(), Duration::from_millis(1_500));
            // Written on by another, as from tier to tier.
            theirs.set(write(&found, Ticket::unconditional())).await.unwrap();
            let again = ours.get(&key("k")).await.unwrap().unwrap();
            assert!(again.created().unwrap() <= found.created().unwrap(), "it grew younger");
            assert_eq!(again.expiry().min(found.expiry()), again.expiry(), "its life grew");
        }
    }
}

async fn an_unknown_age_stays_unknown_in_a_fill_and_a_set_makes_a_new_value(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    let entry = Entry::new(1, Expiry::Never);
    assert!(store.fill(write(&entry, Ticket::unconditional())).await.unwrap());
    assert_eq!(store.get(&key("k")).await.unwrap().unwrap().created(), None);
    store.set(write(&entry, Ticket::unconditional())).await.unwrap();
    let made = store.get(&key("k")).await.unwrap().unwrap().created().unwrap();
    assert!(SystemClock.now().since(made) < SLACK, "{made:?}");
    // The row says when, so that the age of what does not expire is known, too.
    place.execute("UPDATE {t} SET written_at = written_at - 3600000").await;
    let made = store.get(&key("k")).await.unwrap().unwrap().created().unwrap();
    assert!((HOUR..HOUR + SLACK).contains(&SystemClock.now().since(made)), "{made:?}");
}

async fn the_news_that_there_is_no_value_is_kept(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let absent = Entry::absent(after(HOUR)).fresh_until(after(HOUR / 2)).created_at(ago(Duration::ZERO));
    let ticket = ours.lease(&key("k")).await.unwrap();
    assert!(ours.fill(write(&absent, ticket)).await.unwrap());
    let found = theirs.get_many(&[key("k"), key("l")]).await;
    let news = found[0].as_ref().unwrap().as_ref().unwrap();
    assert!(news.is_absent() && !news.is_stale(SystemClock.now()));
    assert!(news.stale_at().remaining(SystemClock.now()).as_duration().unwrap() <= HOUR / 2);
    assert_eq!(*found[1].as_ref().unwrap(), None, "nobody knows anything of this key");
    // It is a lease as any row is.
    assert_eq!(theirs.lease(&key("k")).await.unwrap(), ticket);
    assert!(theirs.fill(write(&Entry::new(2, Expiry::Never), ticket)).await.unwrap());
    ours.set(write(&absent, ticket)).await.unwrap();
    assert!(theirs.get(&key("k")).await.unwrap().unwrap().is_absent());
    assert_ne!(theirs.lease(&key("k")).await.unwrap(), ticket);
}

async fn a_validator_is_kept_and_goes_with_its_value(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let etag = |n: u32| Some(Arc::from(format!("\"etag {n}\"")));
    let found = async || theirs.get(&key("k")).await.unwrap().unwrap();
    let ticket = ours.lease(&key("k")).await.unwrap();
    assert!(ours.fill(write(&Entry::new(1, after(HOUR)).with_validator(etag(1)), ticket)).await.unwrap());
    assert_eq!(found().await.validator(), etag(1).as_ref());
    for n in 2..4 {
        let entry = Entry::new(n, after(HOUR)).fresh_until(after(HOUR / 2)).with_validator(etag(n));
        ours.set(write(&entry, Ticket::unconditional())).await.unwrap();
        assert_eq!((found().await.value(), found().await.validator()), (Some(&n), etag(n).as_ref()));
    }
    // Neither a value without one nor the absence of a value has that of the value before.
    ours.set(write(&Entry::new(4, after(HOUR)), Ticket::unconditional())).await.unwrap();
    assert_eq!(found().await.validator(), None);
    let absent = Entry::absent(after(HOUR)).with_validator(etag(5));
    ours.set(write(&absent, Ticket::unconditional())).await.unwrap();
    assert_eq!((found().await.is_absent(), found().await.validator()), (true, None));
}

async fn a_database_whose_clock_was_set_back_makes_nothing_younger_than_its_write(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    let stale = Entry::new(1, after(HOUR)).fresh_until(after(HOUR / 2)).created_at(ago(HOUR));
    store.set(write(&stale, Ticket::unconditional())).await.unwrap();
    // As if it had been written while the clock was a moment ahead.
    place.execute("UPDATE {t} SET written_at = written_at + 900, expires_at = expires_at + 900").await;
    let found = store.get(&key("k")).await.unwrap().unwrap();
    let now = SystemClock.now();
    assert!(found.remaining(now).as_duration().unwrap() <= HOUR);
    assert!(found.stale_at().remaining(now).as_duration().unwrap() <= HOUR / 2);
    assert!(now.since(found.created().unwrap()) >= HOUR);
    // Of a row that is a day ahead, the age is unknown.
    place.execute("UPDATE {t} SET written_at = written_at + 86400000, expires_at = expires_at + 86400000").await;
    assert_eq!(store.get(&key("k")).await.unwrap(), None);
}
