//! Cases of all backends: any change of an entry voids its tickets, made by a store or by another
//! client.
#![allow(missing_docs, reason = "the name of a case says what it checks")]

use std::time::Duration;

use cache_core::{Entry, ErrorKind, Store, Ticket};

use crate::{Backend, all, eventually, key, living, never, value, void};

/// Makes a test of each case here and of the backend's own cases, by `on_redis` or
/// `on_each_database`.
#[macro_export]
macro_rules! lease_cases {
    ($on_backend:ident $(, $own:ident)* $(,)?) => {
        $crate::suite! {
            $on_backend, leases:
            a_fill_is_refused_after_any_change,
            a_lease_expires_and_a_later_fill_is_refused,
            a_marker_lives_on_with_every_lease_and_a_value_does_not,
            an_unconditional_fill_is_installed,
            of_two_writers_the_second_leaves_the_key_absent,
            readers_share_a_lease_and_a_fill_voids_no_ticket
            ; $($own)*
        }
    };
}

/// Reads the key `k`. Results can be compared.
async fn read<S: Store>(store: &S) -> Result<Option<S::Value>, ErrorKind> {
    let found = store.get(&key("k")).await;
    found.map(|found| found.and_then(Entry::into_value)).map_err(|error| error.kind())
}

pub async fn a_fill_is_refused_after_any_change(backend: impl Backend) {
    // Two processes, as far as the backend can tell.
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let (k, l) = (key("k"), key("l"));
    let by_stores = ["set", "set with a ticket", "del", "clear", "del and another lease"];
    let by_others = ["delete", "overwrite", "expire"];
    for batch in [false, true] {
        for present in [false, true] {
            for change in by_stores.into_iter().chain(by_others) {
                let case = format!("{change}, present: {present}, batch: {batch}");
                ours.clear().await.unwrap();
                if present {
                    ours.set(never(&k, 1, Ticket::unconditional())).await.unwrap();
                }
                let ticket = ours.lease(&k).await.unwrap();
                match change {
                    "set" => theirs.set(never(&k, 2, Ticket::unconditional())).await.unwrap(),
                    "set with a ticket" => {
                        let ticket = theirs.lease(&k).await.unwrap();
                        theirs.set(never(&k, 2, ticket)).await.unwrap();
                    }
                    "del" => theirs.del(&k).await.unwrap(),
                    "clear" => theirs.clear().await.unwrap(),
                    "del and another lease" => {
                        theirs.del(&k).await.unwrap();
                        theirs.lease(&k).await.unwrap();
                    }
                    "delete" => backend.delete().await,
                    "overwrite" => backend.overwrite().await,
                    "expire" => backend.expire().await,
                    _ => unreachable!("{change}"),
                }
                let before = (backend.stored().await, read(&theirs).await);
                if batch {
                    let installed = never(&l, 9, Ticket::unconditional());
                    let fills = vec![never(&k, 3, ticket), installed, never(&k, 3, void())];
                    assert_eq!(all(ours.fill_many(fills).await), [false, true, false], "{case}");
                } else {
                    assert!(!ours.fill(never(&k, 3, ticket)).await.unwrap(), "{case}");
                }
                let after = (backend.stored().await, read(&theirs).await);
                assert_eq!(after, before, "a refused fill disturbs nothing: {case}");
                ours.set(never(&k, 4, ticket)).await.unwrap();
                assert_eq!(value(&theirs, &k).await, None, "{case}");
            }
        }
    }
}

pub async fn readers_share_a_lease_and_a_fill_voids_no_ticket(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let key = key("k");
    assert!(!ours.fill(never(&key, 1, void())).await.unwrap());
    assert_eq!(backend.entries().await, 0);
    assert_eq!(value(&ours, &key).await, None);
    let first = ours.lease(&key).await.unwrap();
    assert_eq!(value(&ours, &key).await, None, "a marker is a miss");
    assert_eq!(all(ours.get_many(&[key.clone(), key.clone()]).await), [None, None]);
    assert_eq!(theirs.lease(&key).await.unwrap(), first);
    assert!(ours.fill(never(&key, 1, first)).await.unwrap());
    assert_eq!(value(&theirs, &key).await, Some(1));
    assert!(theirs.fill(never(&key, 1, first)).await.unwrap(), "a fill voids no ticket");
    assert_eq!(theirs.lease(&key).await.unwrap(), first);
    // A writer that began before the fill is not disturbed by it.
    ours.set(never(&key, 2, first)).await.unwrap();
    assert_eq!(value(&theirs, &key).await, Some(2));
    assert_ne!(theirs.lease(&key).await.unwrap(), first);
}

pub async fn of_two_writers_the_second_leaves_the_key_absent(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let (k, l) = (key("k"), key("l"));
    for present in [false, true] {
        ours.del(&k).await.unwrap();
        if present {
            ours.set(never(&k, 1, Ticket::unconditional())).await.unwrap();
        }
        let (first, second) = (ours.lease(&k).await.unwrap(), theirs.lease(&k).await.unwrap());
        ours.set(living(&k, 2, Duration::from_secs(60))).await.unwrap();
        theirs.set(never(&k, 3, second)).await.unwrap();
        assert_eq!(backend.entries().await, 0);
        ours.set(never(&k, 4, first)).await.unwrap();
        assert_eq!(value(&ours, &k).await, None);
    }
    // In a batch each key has its own.
    let tickets = all(ours.lease_many(&[k.clone(), l.clone()]).await);
    assert_ne!(tickets[0], tickets[1]);
    theirs.del(&k).await.unwrap();
    all(ours.set_many(vec![never(&k, 5, tickets[0]), never(&l, 6, tickets[1])]).await);
    assert_eq!(value(&ours, &k).await, None);
    assert_eq!(value(&ours, &l).await, Some(6));
    // The entry of the other writer is removed, too.
    let tickets = all(ours.lease_many(&[k.clone(), l.clone()]).await);
    theirs.set(never(&k, 7, Ticket::unconditional())).await.unwrap();
    all(ours.set_many(vec![never(&k, 8, tickets[0]), never(&l, 9, tickets[1])]).await);
    assert_eq!(value(&ours, &k).await, None);
    assert_eq!(value(&ours, &l).await, Some(9));
}

pub async fn a_lease_expires_and_a_later_fill_is_refused(backend: impl Backend) {
    let store = backend.connect_with_lease_ttl(Duration::from_millis(50)).await;
    let (k, l) = (key("k"), key("l"));
    let ticket = store.lease(&k).await.unwrap();
    let left = backend.remaining_millis().await;
    assert!(left <= Some(50), "{left:?}");
    eventually("the end of the lease", async || backend.remaining_millis().await.is_none().then_some(())).await;
    assert!(!store.fill(never(&k, 1, ticket)).await.unwrap());
    let fills = vec![never(&k, 1, ticket), never(&l, 1, ticket)];
    assert_eq!(all(store.fill_many(fills).await), [false, false]);
    assert_ne!(store.lease(&k).await.unwrap(), ticket, "an expired marker is replaced");
    // The first time there is another marker, the second time nothing.
    for _ in 0..2 {
        store.set(never(&k, 1, ticket)).await.unwrap();
        assert_eq!(value(&store, &k).await, None, "another writer may have come between");
    }
}

pub async fn a_marker_lives_on_with_every_lease_and_a_value_does_not(backend: impl Backend) {
    let store = backend.connect().await;
    let (k, l) = (key("k"), key("l"));
    let ticket = store.lease(&k).await.unwrap();
    backend.shorten(Duration::from_secs(5)).await;
    assert_eq!(store.lease(&k).await.unwrap(), ticket);
    let left = backend.remaining_millis().await.unwrap();
    assert!((5_001..=10_000).contains(&left), "{left}");
    store.set(living(&k, 1, Duration::from_secs(5))).await.unwrap();
    store.lease(&k).await.unwrap();
    assert_eq!(all(store.lease_many(&[k.clone(), l]).await).len(), 2);
    let left = backend.remaining_millis().await.unwrap();
    assert!(left <= 5_000, "{left}");
    assert_eq!(value(&store, &k).await, Some(1));
}

pub async fn an_unconditional_fill_is_installed(backend: impl Backend) {
    let store = backend.connect().await;
    assert!(store.fill(never(&key("k"), 1, Ticket::unconditional())).await.unwrap());
    assert_eq!(value(&store, &key("k")).await, Some(1));
}
