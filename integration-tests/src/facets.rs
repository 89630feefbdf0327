//! Cases of all backends: the facets of an entry other than its value are kept.
#![allow(missing_docs, reason = "the name of a case says what it checks")]

use std::{sync::Arc, time::Duration};

use cache_core::{Clock as _, Entry, Expiry, Moment, Store, SystemClock, Ticket, Write};

use crate::{Backend, key};

/// The delay that a busy machine may add to an age; far less than the ages here.
pub const SLACK: Duration = Duration::from_secs(20);

/// The scale of the ages and lifetimes here.
pub const HOUR: Duration = Duration::from_secs(3600);

/// Makes a test of each case here and of the backend's own cases, by `on_redis` or
/// `on_each_database`.
#[macro_export]
macro_rules! facet_cases {
    ($on_backend:ident $(, $own:ident)* $(,)?) => {
        $crate::suite! {
            $on_backend, facets:
            a_backfill_does_not_make_an_old_value_young,
            an_unknown_age_stays_unknown_in_a_fill_and_a_set_makes_a_new_value,
            the_news_that_there_is_no_value_is_kept,
            a_validator_is_kept_and_goes_with_its_value
            ; $($own)*
        }
    };
}

/// Returns the expiry after `ttl` from now.
pub fn after(ttl: Duration) -> Expiry {
    Expiry::after(SystemClock.now(), ttl.into())
}

/// Returns the moment this long ago.
pub fn ago(time: Duration) -> Moment {
    SystemClock.now().minus(time).expect("the clock's origin is far away")
}

/// Returns a write of this entry under the key `k`.
pub fn write(entry: &Entry<u32>, ticket: Ticket) -> Write<u32> {
    Write::new(key("k"), entry.clone(), ticket)
}

/// Returns the entry of the key `k`.
///
/// # Panics
///
/// Panics if there is none.
pub async fn stored_entry<S: Store>(store: &S) -> Entry<S::Value> {
    store.get(&key("k")).await.expect("a read").expect("an entry")
}

pub async fn a_backfill_does_not_make_an_old_value_young(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let made = ago(HOUR);
    for expiry in [Expiry::Never, after(HOUR)] {
        let entry = Entry::new(1, expiry).created_at(made).loaded_in(Duration::from_millis(1_500));
        for _ in 0..3 {
            ours.del(&key("k")).await.unwrap();
            let ticket = ours.lease(&key("k")).await.unwrap();
            assert!(ours.fill(write(&entry, ticket)).await.unwrap());
            let found = stored_entry(&theirs).await;
            let age = SystemClock.now().since(found.created().unwrap());
            assert!(age < HOUR + SLACK, "{age:?}");
            assert!(found.created().unwrap() <= made, "it looks younger than it is");
            assert_eq!(found.load_time(), Duration::from_millis(1_500));
            // Written on by another, as from tier to tier.
            theirs.set(write(&found, Ticket::unconditional())).await.unwrap();
            let again = stored_entry(&ours).await;
            assert!(again.created().unwrap() <= found.created().unwrap(), "it grew younger");
            assert_eq!(again.expiry().min(found.expiry()), again.expiry(), "its life grew");
        }
    }
}

pub async fn an_unknown_age_stays_unknown_in_a_fill_and_a_set_makes_a_new_value(backend: impl Backend) {
    let store = backend.connect().await;
    for expiry in [Expiry::Never, after(HOUR)] {
        let entry = Entry::new(1, expiry);
        assert!(store.fill(write(&entry, Ticket::unconditional())).await.unwrap());
        assert_eq!(stored_entry(&store).await.created(), None);
        let before = SystemClock.now();
        store.set(write(&entry, Ticket::unconditional())).await.unwrap();
        let made = stored_entry(&store).await.created().unwrap();
        assert!(SystemClock.now().since(made) < SLACK && before.since(made) < SLACK, "{made:?}");
    }
}

pub async fn the_news_that_there_is_no_value_is_kept(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let absent = Entry::absent(after(HOUR)).fresh_until(after(HOUR / 2)).created_at(ago(Duration::ZERO));
    let ticket = ours.lease(&key("k")).await.unwrap();
    assert!(ours.fill(write(&absent, ticket)).await.unwrap());
    let found = theirs.get_many(&[key("k"), key("l")]).await;
    let news = found[0].as_ref().unwrap().as_ref().unwrap();
    assert!(news.is_absent() && !news.is_stale(SystemClock.now()));
    assert!(news.stale_at().remaining(SystemClock.now()).as_duration().unwrap() <= HOUR / 2);
    assert_eq!(*found[1].as_ref().unwrap(), None, "nothing is known of this key");
    // It is a lease as any entry is.
    assert_eq!(theirs.lease(&key("k")).await.unwrap(), ticket);
    assert!(theirs.fill(write(&Entry::new(2, Expiry::Never), ticket)).await.unwrap());
    ours.set(write(&absent, ticket)).await.unwrap();
    assert!(stored_entry(&theirs).await.is_absent());
    assert_ne!(theirs.lease(&key("k")).await.unwrap(), ticket);
}

pub async fn a_validator_is_kept_and_goes_with_its_value(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let etag = |n: u32| Some(Arc::from(format!("\"etag {n}\"")));
    let ticket = ours.lease(&key("k")).await.unwrap();
    assert!(ours.fill(write(&Entry::new(1, after(HOUR)).with_validator(etag(1)), ticket)).await.unwrap());
    assert_eq!(stored_entry(&theirs).await.validator(), etag(1).as_ref());
    for n in 2..4 {
        let entry = Entry::new(n, after(HOUR)).fresh_until(after(HOUR / 2)).with_validator(etag(n));
        ours.set(write(&entry, Ticket::unconditional())).await.unwrap();
        let found = stored_entry(&theirs).await;
        assert_eq!((found.value(), found.validator()), (Some(&n), etag(n).as_ref()));
    }
    // Neither a value without one nor the absence of a value has that of the value before.
    ours.set(write(&Entry::new(4, after(HOUR)), Ticket::unconditional())).await.unwrap();
    assert_eq!(stored_entry(&theirs).await.validator(), None);
    let absent = Entry::absent(after(HOUR)).with_validator(etag(5));
    ours.set(write(&absent, Ticket::unconditional())).await.unwrap();
    let found = stored_entry(&theirs).await;
    assert_eq!((found.is_absent(), found.validator()), (true, None));
}
