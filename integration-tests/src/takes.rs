//! Takes, for the tests of all stores that return each entry once.

use cache_core::{Entry, Store, Ticket};

use crate::{key, never};

/// Takes each of `rounds` keys eight times at once, by two stores as two processes have. One call
/// returns the entry.
///
/// # Panics
///
/// Panics if another number of calls returns it, or if it is still there.
pub async fn race_takes<S: Store<Value = u32> + Clone>(ours: &S, theirs: &S, rounds: u32) {
    for round in 0..rounds {
        ours.set(never(&key(round), round, Ticket::unconditional())).await.expect("a write");
        let calls = (0..8).map(|at| {
            let store = if at % 2 == 0 { ours.clone() } else { theirs.clone() };
            tokio::spawn(async move { store.take(&key(round)).await.expect("a take") })
        });
        let mut values = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            values.extend(call.await.expect("a task").and_then(Entry::into_value));
        }
        assert_eq!(values, [round]);
        assert_eq!(theirs.get(&key(round)).await.expect("a read"), None);
    }
}

/// Writes each of `rounds` keys, which are absent, while it is taken. The entry is taken or stays.
///
/// # Panics
///
/// Panics if the entry is neither returned nor there, or if it is both.
pub async fn race_takes_of_what_is_written<S: Store<Value = u32> + Clone>(ours: &S, theirs: &S, rounds: u32) {
    for round in 0..rounds {
        let key = key(("written", round));
        let write = never(&key, round, Ticket::unconditional());
        let takers = [ours, theirs].map(|store| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(
                async move { [store.take(&key).await.expect("a take"), store.take(&key).await.expect("a take")] },
            )
        });
        ours.set(write).await.expect("a write");
        let mut found = Vec::new();
        for taker in takers {
            found.extend(taker.await.expect("a task").into_iter().flatten().filter_map(Entry::into_value));
        }
        found.extend(theirs.take(&key).await.expect("a take").and_then(Entry::into_value));
        assert_eq!(found, [round]);
    }
}

/// Several tasks write numbers to one key while others take them. Each number is taken at most
/// once, and only one that was written.
///
/// # Panics
///
/// Panics if a number is taken twice, or if none is taken.
pub async fn race_takes_and_sets<S: Store<Value = u32> + Clone>(ours: &S, theirs: &S, rounds: u32) {
    let writers = [ours, theirs].into_iter().zip([0, 1]).map(|(store, parity)| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..rounds {
                let write = never(&key("k"), 2 * round + parity, Ticket::unconditional());
                store.set(write).await.expect("a write");
            }
            Vec::new()
        })
    });
    let takers = [ours, theirs, ours, theirs].into_iter().map(|store| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            for _ in 0..rounds {
                taken.extend(store.take(&key("k")).await.expect("a take").and_then(Entry::into_value));
            }
            taken
        })
    });
    let mut taken = Vec::new();
    for task in writers.chain(takers).collect::<Vec<_>>() {
        taken.extend(task.await.expect("a task"));
    }
    taken.extend(ours.take(&key("k")).await.expect("a take").and_then(Entry::into_value));
    assert!(!taken.is_empty() && taken.iter().all(|number| *number < 2 * rounds), "{taken:?}");
    taken.sort_unstable();
    assert!(taken.is_sorted_by(|one, other| one < other), "taken twice: {taken:?}");
}
