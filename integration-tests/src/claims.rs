//! Claims, for the tests of all stores that grant them to one process at a time.

use std::time::Duration;

use cache_core::{Claim, Entry, Store, Ticket};

use crate::{eventually, key, never};

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

/// Holds the claims of two keys for longer than their lives, by renewals. Then the application dies:
/// one claim runs out. The other is removed by hand with `remove`, which a renewal does not undo.
///
/// # Panics
///
/// Panics if another claim is granted meanwhile, or if none is granted afterwards.
pub async fn hold_claims<S: Store<Value = u32>>(ours: &S, theirs: &S, remove: impl AsyncFn(&str) -> bool) {
    let life = Duration::from_secs(3);
    let keys = [key("a"), key("b")];
    let claims = ours.claim_many_within(&keys, life).await;
    let held = keys.iter().zip(claims).map(|(key, claim)| {
        let claim = claim.expect("a claim");
        assert!(claim.granted, "{claim:?}");
        (key.clone(), claim.ticket)
    });
    let held: Vec<_> = held.collect();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ours.renew_claims(&held, life).await.expect("a renewal");
        for (key, ticket) in &held {
            let claim = theirs.claim_within(key, life).await.expect("a claim");
            assert_eq!(claim, Claim::refused(*ticket));
        }
    }
    assert!(remove("b").await);
    ours.renew_claims(&held[1..], life).await.expect("a renewal");
    assert!(theirs.claim_within(&keys[1], life).await.expect("a claim").granted);
    let next = eventually("the end of the claim", async || {
        Some(theirs.claim_within(&keys[0], life).await.expect("a claim")).filter(|claim| claim.granted)
    });
    let next = next.await;
    assert_ne!(next.ticket, held[0].1);
    ours.renew_claims(&held, life).await.expect("a renewal");
    assert!(!ours.fill(never(&keys[0], 1, held[0].1)).await.expect("a fill"));
    assert!(theirs.fill(never(&keys[0], 2, next.ticket)).await.expect("a fill"));
}

/// Claims many keys at once: absent ones, and some that have a value, a plain marker, or a claim of
/// another process.
///
/// # Panics
///
/// Panics if a claim is not what a claim of that key alone would be.
pub async fn claim_a_batch<S: Store<Value = u32>>(ours: &S, theirs: &S) {
    let life = Duration::from_secs(9);
    let keys: Vec<_> = (0..600).map(key).collect();
    let mut before = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        before.push(match at % 100 {
            1 => {
                theirs.set(never(key, 1, Ticket::unconditional())).await.expect("a write");
                theirs.lease(key).await.ok()
            }
            2 => theirs.lease(key).await.ok(),
            3 => Some(theirs.claim(key).await.expect("a claim").ticket),
            _ => None,
        });
    }
    // The first key once more.
    let repeated: Vec<_> = keys.iter().chain(&keys[..1]).cloned().collect();
    let claims = ours.claim_many_within(&repeated, life).await;
    let claims: Vec<Claim> = claims.into_iter().map(|claim| claim.expect("a claim")).collect();
    assert_eq!(claims.len(), 601);
    assert_eq!(claims[600], Claim::refused(claims[0].ticket));
    for (at, claim) in claims[..600].iter().enumerate() {
        match (at % 100, before[at]) {
            (1, Some(lease)) => assert_eq!(*claim, Claim::granted(lease), "{at}: a value"),
            (3, Some(other)) => assert_eq!(*claim, Claim::refused(other), "{at}: a claim"),
            (_, before) => {
                assert!(claim.granted && claim.vacant && Some(claim.ticket) != before, "{at}: {claim:?}");
                let other = theirs.claim(&keys[at]).await.expect("a claim");
                assert_eq!(other, Claim::refused(claim.ticket), "{at}");
            }
        }
    }
}
