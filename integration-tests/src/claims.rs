//! Cases of all backends that grant claims: one process at a time loads an absent key.
#![allow(missing_docs, reason = "the name of a case says what it checks")]

use std::time::Duration;

use cache_core::{Claim, Store, Ticket};

use crate::{Backend, all, eventually, key, never, value};

/// Makes a test of each case here and of the backend's own cases, by `on_redis` or
/// `on_each_database`.
#[macro_export]
macro_rules! claim_cases {
    ($on_backend:ident $(, $own:ident)* $(,)?) => {
        $crate::suite! {
            $on_backend, claims:
            a_batch_of_claims_is_one_of_each_kind,
            a_claim_lives_for_as_long_as_it_is_taken_for,
            a_plain_lease_refuses_no_claim_and_gives_way,
            a_release_frees_the_claim_and_nothing_else,
            a_renewal_is_of_the_claim_that_is_held_and_of_nothing_else,
            a_value_that_has_just_come_is_no_claim,
            a_write_frees_the_claim_and_voids_its_ticket,
            of_many_claims_of_two_processes_one_is_granted,
            renewals_keep_others_off_for_as_long_as_they_go_on,
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

pub async fn a_claim_lives_for_as_long_as_it_is_taken_for(backend: impl Backend) {
    let store = backend.connect().await;
    let second = Duration::from_secs(1);
    let left = async || backend.remaining_millis().await.unwrap();
    for (life, most) in [(2 * second, 2_000), (60 * second, 10_000)] {
        let claim = store.claim_within(&key("k"), life).await.unwrap();
        assert!(claim.granted && claim.vacant, "{claim:?}");
        assert!((most - 1_500..=most).contains(&left().await));
        store.renew_claims(&[(key("k"), claim.ticket)], 5 * second).await.unwrap();
        assert!((3_500..=5_000).contains(&left().await));
        store.renew_claims(&[(key("k"), claim.ticket)], 60 * second).await.unwrap();
        assert!((8_500..=10_000).contains(&left().await));
        store.release(&key("k"), claim.ticket).await.unwrap();
        assert_eq!(backend.entries().await, 0);
    }
}

pub async fn a_renewal_is_of_the_claim_that_is_held_and_of_nothing_else(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let (short, long) = (Duration::from_secs(5), Duration::from_secs(9));
    let renew = async |ticket| theirs.renew_claims(&[(key("k"), ticket)], long).await.unwrap();
    let left = async || backend.remaining_millis().await;
    let claim = async || {
        let claim = ours.claim_within(&key("k"), short).await.unwrap();
        assert!(claim.granted, "{claim:?}");
        claim.ticket
    };
    // A claim that was released, and one that another process holds by now.
    let first = claim().await;
    ours.release(&key("k"), first).await.unwrap();
    renew(first).await;
    assert_eq!(backend.entries().await, 0);
    let second = claim().await;
    renew(first).await;
    renew(Ticket::unconditional()).await;
    assert!(left().await.unwrap() <= 5_000);
    // One that has run out.
    backend.expire().await;
    renew(second).await;
    assert_eq!(left().await, None);
    let third = claim().await;
    assert_ne!(third, second);
    // A value that the claim has brought.
    assert!(ours.fill(never(&key("k"), 1, third)).await.unwrap());
    renew(third).await;
    assert_eq!(left().await, None, "it does not expire");
    assert_eq!(value(&ours, &key("k")).await, Some(1));
    // A plain lease.
    ours.del(&key("k")).await.unwrap();
    let lease = ours.lease_within(&key("k"), short).await.unwrap();
    renew(lease).await;
    assert!(left().await.unwrap() <= 5_000);
}

/// Claims with a life of 3 s are held for 5 s. Then one of them runs out, and the other is removed
/// by an operator.
pub async fn renewals_keep_others_off_for_as_long_as_they_go_on(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let life = Duration::from_secs(3);
    let keys = [key("k"), key("l")];
    let mut held = Vec::new();
    for (key, claim) in keys.iter().zip(ours.claim_many_within(&keys, life).await) {
        let claim = claim.unwrap();
        assert!(claim.granted, "{claim:?}");
        held.push((key.clone(), claim.ticket));
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ours.renew_claims(&held, life).await.unwrap();
        for (key, ticket) in &held {
            assert_eq!(theirs.claim_within(key, life).await.unwrap(), Claim::refused(*ticket));
        }
    }
    backend.delete().await;
    ours.renew_claims(&held[..1], life).await.unwrap();
    assert!(theirs.claim_within(&keys[0], life).await.unwrap().granted);
    let next = eventually("the end of the claim", async || {
        Some(theirs.claim_within(&keys[1], life).await.unwrap()).filter(|claim| claim.granted)
    });
    let next = next.await;
    ours.renew_claims(&held, life).await.unwrap();
    assert!(!ours.fill(never(&keys[1], 1, held[1].1)).await.unwrap());
    assert!(theirs.fill(never(&keys[1], 2, next.ticket)).await.unwrap());
}

/// Claims many keys at once: absent ones, and some that have a value, a plain marker, or a claim of
/// another process.
pub async fn a_batch_of_claims_is_one_of_each_kind(backend: impl Backend) {
    let (ours, theirs) = (backend.connect().await, backend.connect().await);
    let keys: Vec<_> = (0..600).map(key).collect();
    let mut before = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        before.push(match at % 100 {
            1 => {
                theirs.set(never(key, 1, Ticket::unconditional())).await.unwrap();
                Some(theirs.lease(key).await.unwrap())
            }
            2 => Some(theirs.lease(key).await.unwrap()),
            3 => Some(theirs.claim(key).await.unwrap().ticket),
            _ => None,
        });
    }
    // The first key once more.
    let repeated: Vec<_> = keys.iter().chain(&keys[..1]).cloned().collect();
    let claims = all(ours.claim_many_within(&repeated, Duration::from_secs(9)).await);
    assert_eq!(claims.len(), 601);
    assert_eq!(claims[600], Claim::refused(claims[0].ticket));
    for (at, claim) in claims[..600].iter().enumerate() {
        match (at % 100, before[at]) {
            (1, Some(lease)) => assert_eq!(*claim, Claim::granted(lease), "{at}: a value"),
            (3, Some(other)) => assert_eq!(*claim, Claim::refused(other), "{at}: a claim"),
            (_, before) => {
                assert!(claim.granted && claim.vacant && Some(claim.ticket) != before, "{at}: {claim:?}");
                assert_eq!(theirs.claim(&keys[at]).await.unwrap(), Claim::refused(claim.ticket), "{at}");
            }
        }
    }
}
