//! Cases of all backends that grant claims: one process at a time loads an absent key.
#![allow(missing_docs, reason = "the name of a case says what it checks")]

use std::time::Duration;

use cache_core::{Claim, Store, Ticket};

use crate::{Backend, eventually, key, never, value};

/// Makes a test of each case here and of the backend's own cases, by `on_redis` or
/// `on_each_database`.
#[macro_export]
macro_rules! claim_cases {
    ($on_backend:ident $(, $own:ident)* $(,)?) => {
        $crate::suite! {
            $on_backend, claims:
            a_plain_lease_refuses_no_claim_and_gives_way,
            a_release_frees_the_claim_and_nothing_else,
            a_value_that_has_just_come_is_no_claim,
            a_write_frees_the_claim_and_voids_its_ticket,
            of_many_claims_of_two_processes_one_is_granted,
            the_claim_of_a_holder_who_died_runs_out_whoever_asks_meanwhile
            ; $($own)*
        }
    };
}

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

pub async fn of_many_claims_of_two_processes_one_is_granted(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    for round in 0..50_u64 {
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

pub async fn the_claim_of_a_holder_who_died_runs_out_whoever_asks_meanwhile(backend: impl Backend) {
    let theirs = backend.connect_with_lease_ttl(Duration::from_secs(2)).await;
    let ours = backend.connect().await;
    let dead = granted(&theirs).await;
    let marker = backend.stored().await;
    let left = async || backend.remaining_millis().await.unwrap();
    assert!((1..=2_000).contains(&left().await));
    assert_eq!(backend.write_id().await, dead.version());
    // Neither claims nor leases, of which the other store's would last for 10 s, keep it alive.
    assert_eq!(refused(&ours).await, dead);
    assert_eq!(ours.lease(&key("k")).await.unwrap(), dead);
    assert_eq!(backend.stored().await, marker);
    assert!(left().await <= 2_000);
    let next =
        eventually("the end of the claim", async || Some(claim(&ours).await).filter(|claim| claim.granted)).await;
    assert_ne!(next.ticket, dead);
    assert!(!theirs.fill(never(&key("k"), 1, dead)).await.unwrap(), "the dead one comes back too late");
    assert!(ours.fill(never(&key("k"), 2, next.ticket)).await.unwrap());
    assert_eq!(backend.entries().await, 1);
}

pub async fn a_plain_lease_refuses_no_claim_and_gives_way(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let lease = ours.lease(&key("k")).await.unwrap();
    // Markers tell claims from leases by the top bit of their ids.
    assert!(backend.write_id().await.unwrap() >> 63 == 0);
    let claim = granted(&theirs).await;
    assert!(backend.write_id().await.unwrap() >> 63 == 1);
    assert_ne!(claim, lease);
    assert!(!ours.fill(never(&key("k"), 1, lease)).await.unwrap());
    assert!(theirs.fill(never(&key("k"), 2, claim)).await.unwrap());
    assert_eq!(value(&ours, &key("k")).await, Some(2));
}

pub async fn a_release_frees_the_claim_and_nothing_else(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let first = granted(&ours).await;
    ours.release(&key("k"), first).await.unwrap();
    assert_eq!(backend.entries().await, 0);
    let second = granted(&theirs).await;
    ours.release(&key("k"), first).await.unwrap();
    assert_eq!(refused(&ours).await, second, "the claim of another");
    // A value that was filled by the claim has its id.
    assert!(theirs.fill(never(&key("k"), 1, second)).await.unwrap());
    theirs.release(&key("k"), second).await.unwrap();
    assert_eq!(value(&ours, &key("k")).await, Some(1));
    // A plain lease is not for a claim's holder to give back, nor is an unconditional ticket.
    ours.del(&key("k")).await.unwrap();
    let lease = ours.lease(&key("k")).await.unwrap();
    ours.release(&key("k"), lease).await.unwrap();
    ours.release(&key("k"), Ticket::unconditional()).await.unwrap();
    assert!(theirs.fill(never(&key("k"), 2, lease)).await.unwrap());
}

pub async fn a_write_frees_the_claim_and_voids_its_ticket(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    for write in ["set", "del", "clear", "delete"] {
        ours.del(&key("k")).await.unwrap();
        let ticket = granted(&ours).await;
        match write {
            "set" => theirs.set(never(&key("k"), 2, Ticket::unconditional())).await.unwrap(),
            "del" => theirs.del(&key("k")).await.unwrap(),
            "clear" => theirs.clear().await.unwrap(),
            _ => backend.delete().await,
        }
        assert!(!ours.fill(never(&key("k"), 1, ticket)).await.unwrap(), "{write}");
        assert_ne!(granted(&theirs).await, ticket, "{write}");
    }
}

pub async fn a_value_that_has_just_come_is_no_claim(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    for filled in [false, true] {
        let ticket = granted(&ours).await;
        if filled {
            assert!(ours.fill(never(&key("k"), 1, ticket)).await.unwrap());
        } else {
            ours.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
        }
        let late = granted(&theirs).await;
        assert_eq!(late == ticket, filled);
        assert_eq!(value(&theirs, &key("k")).await, Some(1), "a claim removes no value");
        assert!(theirs.fill(never(&key("k"), 2, late)).await.unwrap());
        ours.del(&key("k")).await.unwrap();
    }
}
