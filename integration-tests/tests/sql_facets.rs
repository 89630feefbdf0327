//! The facets of an entry other than its value, kept in a table.

use cache_core::{Clock as _, Entry, Expiry, Store as _, SystemClock, Ticket};
use integration_tests::{
    SqlPlace,
    facets::{HOUR, SLACK, after, ago, stored_entry, write},
    key,
};
use store_sql::SqlStore;

integration_tests::facet_cases!(
    on_each_database,
    a_database_whose_clock_was_set_back_makes_nothing_younger_than_its_write,
    the_row_says_when_it_was_written,
);

async fn the_row_says_when_it_was_written(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    store.set(write(&Entry::new(1, Expiry::Never), Ticket::unconditional())).await.unwrap();
    // So the age of an entry that does not expire is known, too.
    place.execute("UPDATE {t} SET written_at = written_at - 3600000").await;
    let made = stored_entry(&store).await.created().unwrap();
    assert!((HOUR..HOUR + SLACK).contains(&SystemClock.now().since(made)), "{made:?}");
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
