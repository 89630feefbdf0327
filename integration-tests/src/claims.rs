//! Claims, for the tests of all stores that grant them to one process at a time.

use cache_core::{Claim, Entry, Store, Ticket};

use crate::{key, never};

/// Claims the key `k`.
pub async fn claim<S: Store>(store: &S) -> Claim {
    store.claim(&key("k")).await.expect("a claim")
}

/// Claims the key `k`, which must be granted.
///
/// # Panics
///
/// Panics if the claim is refused.
pub async fn granted<S: Store>(store: &S) -> Ticket {
    let claim = claim(store).await;
    assert!(claim.granted, "{claim:?}");
    claim.ticket
}

/// Claims the key `k`, which must be refused.
///
/// # Panics
///
/// Panics if the claim is granted.
pub async fn refused<S: Store>(store: &S) -> Ticket {
    let claim = claim(store).await;
    assert!(!claim.granted, "{claim:?}");
    claim.ticket
}

/// The value of the key `k`.
pub async fn claimed_value<S: Store>(store: &S) -> Option<S::Value> {
    store.get(&key("k")).await.expect("a read").and_then(Entry::into_value)
}

/// Claims each of `rounds` keys eight times at once, by two stores as two processes have. One claim is
/// granted, and all get its ticket.
///
/// # Panics
///
/// Panics if another number of claims is granted.
pub async fn race_claims<S: Store<Value = u32> + Clone>(ours: &S, theirs: &S, rounds: u64) {
    for round in 0..rounds {
        let claims = (0..8).map(|at| {
            let store = if at % 2 == 0 { ours.clone() } else { theirs.clone() };
            tokio::spawn(async move { store.claim(&key(round)).await.expect("a claim") })
        });
        let mut all = Vec::new();
        for claim in claims.collect::<Vec<_>>() {
            all.push(claim.await.expect("a task"));
        }
        assert_eq!(all.iter().filter(|claim| claim.granted).count(), 1, "{all:?}");
        assert!(all.iter().all(|claim| claim.ticket == all[0].ticket), "{all:?}");
        // A process that was refused may fill as well.
        let fill = never(&key(round), 1, all[0].ticket);
        assert!(theirs.fill(fill).await.expect("a fill"));
    }
}
