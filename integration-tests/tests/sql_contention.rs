//! Many writers of the same rows: nobody fails for another, and nothing is torn.

use std::time::Duration;

use cache_core::{Entry, Key, Store as _, Ticket};
use integration_tests::{SqlPlace, all, key, never, on_each_database};
use store_sql::SqlStore;

on_each_database!(writers_of_overlapping_batches_all_succeed, after_writers_by_ticket_the_last_row_is_whole);

fn turned(keys: &[Key], by: usize) -> Vec<Key> {
    let mut keys = keys.to_vec();
    let by_keys = by % keys.len();
    keys.rotate_left(by_keys);
    if by % 2 == 1 {
        keys.reverse();
    }
    keys
}

async fn writers_of_overlapping_batches_all_succeed(place: SqlPlace) {
    let keys: Vec<Key> = (0..40_u64).map(key).collect();
    let mut tasks = Vec::new();
    for writer in 0..6_usize {
        // Pairs of them share a process, as it were.
        let store: SqlStore<u64> = place.builder().timeout(Duration::from_secs(30)).connect().await.unwrap();
        let keys = keys.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..12 {
                let batch = turned(&keys, writer * 7 + round);
                let value = (writer * 100 + round) as u64;
                let unconditional = |key| never(key, value, Ticket::unconditional());
                match (writer + round) % 4 {
                    0 => all(store.set_many(batch.iter().map(unconditional).collect()).await).len(),
                    1 => {
                        let tickets = all(store.lease_many(&batch).await);
                        let writes = batch.iter().zip(tickets).map(|(key, ticket)| never(key, value, ticket));
                        all(store.set_many(writes.collect()).await).len()
                    }
                    2 => {
                        let tickets = all(store.lease_many(&batch).await);
                        let writes = batch.iter().zip(tickets).map(|(key, ticket)| never(key, value, ticket));
                        all(store.fill_many(writes.collect()).await).len()
                    }
                    _ => all(store.del_many(&batch[..20]).await).len(),
                };
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let store: SqlStore<u64> = place.store().await;
    all(store.set_many(keys.iter().map(|key| never(key, 1, Ticket::unconditional())).collect()).await);
    assert_eq!(place.rows().await, 40);
    store.clear().await.unwrap();
    assert_eq!(place.rows().await, 0);
}

async fn after_writers_by_ticket_the_last_row_is_whole(place: SqlPlace) {
    let mut tasks = Vec::new();
    for writer in 0..6_u64 {
        let store: SqlStore<Vec<u64>> = place.builder().timeout(Duration::from_secs(30)).connect().await.unwrap();
        tasks.push(tokio::spawn(async move {
            for round in 0..20 {
                let ticket = store.lease(&key("k")).await.unwrap();
                store.set(never(&key("k"), vec![writer * 100 + round; 500], ticket)).await.unwrap();
                if let Some(found) = store.get(&key("k")).await.unwrap().and_then(Entry::into_value) {
                    assert!(found.len() == 500 && found.iter().all(|part| *part == found[0]), "{found:?}");
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}
