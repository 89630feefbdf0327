//! Claims in a table: one process at a time loads what is absent.

use std::time::Duration;

use cache_core::{ErrorKind, Store as _, Ticket};
use integration_tests::{
    SqlPlace,
    claims::{claim, claim_a_batch, claimed_value, granted, hold_claims, race_claims, refused},
    eventually, key, living, never, on_each_database,
};
use store_sql::SqlStore;

on_each_database!(
    of_many_claims_of_two_processes_one_is_granted,
    the_claim_of_a_holder_who_died_runs_out_whoever_asks_meanwhile,
    a_plain_lease_refuses_no_claim_and_gives_way,
    a_release_frees_the_claim_and_nothing_else,
    a_write_frees_the_claim_and_voids_its_ticket,
    a_value_that_has_just_come_is_no_claim,
    what_cannot_be_read_or_has_expired_refuses_no_claim,
    a_claim_lives_for_as_long_as_it_is_taken_for,
    a_renewal_is_of_the_claim_that_is_held_and_of_nothing_else,
    renewals_keep_others_off_for_as_long_as_they_go_on,
    a_batch_of_claims_is_one_of_each_kind,
);

async fn of_many_claims_of_two_processes_one_is_granted(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    race_claims(&ours, &theirs, 20).await;
}

async fn the_claim_of_a_holder_who_died_runs_out_whoever_asks_meanwhile(place: SqlPlace) {
    let theirs: SqlStore<u32> = place.builder().lease_ttl(Duration::from_secs(2)).connect().await.unwrap();
    let ours: SqlStore<u32> = place.store().await;
    let dead = granted(&theirs).await;
    let end = place.number("SELECT expires_at FROM {t}").await;
    assert!(place.number("SELECT expires_at - {now} FROM {t}").await.unwrap() <= 2_001);
    assert_eq!(place.number("SELECT write_id FROM {t}").await, Some(dead.version().unwrap().cast_signed()));
    // Neither claims nor leases, of which the other store's would last for 10 s, keep it alive.
    assert_eq!(refused(&ours).await, dead);
    assert_eq!(ours.lease(&key("k")).await.unwrap(), dead);
    assert_eq!(place.number("SELECT expires_at FROM {t}").await, end);
    let next =
        eventually("the end of the claim", async || Some(claim(&ours).await).filter(|claim| claim.granted)).await;
    assert_ne!(next.ticket, dead);
    assert!(!theirs.fill(never(&key("k"), 1, dead)).await.unwrap(), "the dead one comes back too late");
    assert!(ours.fill(never(&key("k"), 2, next.ticket)).await.unwrap());
    assert_eq!(place.rows().await, 1);
}

async fn a_plain_lease_refuses_no_claim_and_gives_way(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let lease = ours.lease(&key("k")).await.unwrap();
    assert!(place.number("SELECT write_id FROM {t}").await.unwrap() >= 0);
    let claim = granted(&theirs).await;
    assert!(place.number("SELECT write_id FROM {t}").await.unwrap() < 0);
    assert_ne!(claim, lease);
    assert!(!ours.fill(never(&key("k"), 1, lease)).await.unwrap());
    assert!(theirs.fill(never(&key("k"), 2, claim)).await.unwrap());
    assert_eq!(claimed_value(&ours).await, Some(2));
}

async fn a_release_frees_the_claim_and_nothing_else(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let first = granted(&ours).await;
    ours.release(&key("k"), first).await.unwrap();
    assert_eq!(place.rows().await, 0);
    let second = granted(&theirs).await;
    ours.release(&key("k"), first).await.unwrap();
    assert_eq!(refused(&ours).await, second, "the claim of another");
    // A value that was filled by the claim has its id.
    assert!(theirs.fill(never(&key("k"), 1, second)).await.unwrap());
    theirs.release(&key("k"), second).await.unwrap();
    assert_eq!(claimed_value(&ours).await, Some(1));
    // A plain lease is not for a claim's holder to give back, nor is an unconditional ticket.
    ours.del(&key("k")).await.unwrap();
    let lease = ours.lease(&key("k")).await.unwrap();
    ours.release(&key("k"), lease).await.unwrap();
    ours.release(&key("k"), Ticket::unconditional()).await.unwrap();
    assert!(theirs.fill(never(&key("k"), 2, lease)).await.unwrap());
}

async fn a_write_frees_the_claim_and_voids_its_ticket(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    for write in ["set", "del", "clear", "DELETE"] {
        ours.del(&key("k")).await.unwrap();
        let ticket = granted(&ours).await;
        match write {
            "set" => theirs.set(never(&key("k"), 2, Ticket::unconditional())).await.unwrap(),
            "del" => theirs.del(&key("k")).await.unwrap(),
            "clear" => theirs.clear().await.unwrap(),
            _ => place.execute("DELETE FROM {t}").await,
        }
        assert!(!ours.fill(never(&key("k"), 1, ticket)).await.unwrap(), "{write}");
        assert_ne!(granted(&theirs).await, ticket, "{write}");
    }
}

async fn a_value_that_has_just_come_is_no_claim(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    for filled in [false, true] {
        let ticket = granted(&ours).await;
        if filled {
            assert!(ours.fill(never(&key("k"), 1, ticket)).await.unwrap());
        } else {
            ours.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
        }
        let late = granted(&theirs).await;
        assert_eq!(late == ticket, filled);
        assert_eq!(claimed_value(&theirs).await, Some(1), "a claim removes no value");
        assert!(theirs.fill(never(&key("k"), 2, late)).await.unwrap());
        ours.del(&key("k")).await.unwrap();
    }
}

async fn what_cannot_be_read_or_has_expired_refuses_no_claim(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    // So that nobody is kept off for ever, what cannot be read is not taken for somebody's work in
    // progress.
    ours.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
    place.execute(&format!("UPDATE {{t}} SET value = {}", place.bytes(b"foreign"))).await;
    assert_eq!(ours.get(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec);
    let ticket = granted(&ours).await;
    assert!(ours.fill(never(&key("k"), 2, ticket)).await.unwrap());
    assert_eq!(claimed_value(&theirs).await, Some(2));
    // What has expired is nothing, be it a value that a claim has brought.
    for claimed in [false, true] {
        ours.del(&key("k")).await.unwrap();
        let ticket = if claimed { granted(&ours).await } else { ours.lease(&key("k")).await.unwrap() };
        let write = living(&key("k"), 3, Duration::from_secs(60));
        assert!(ours.fill(cache_core::Write { ticket, ..write }).await.unwrap());
        place.execute("UPDATE {t} SET expires_at = 1").await;
        let next = granted(&theirs).await;
        assert_ne!(next, ticket);
        assert_eq!(refused(&ours).await, next);
        assert_eq!(claimed_value(&ours).await, None);
        assert!(!ours.fill(never(&key("k"), 4, ticket)).await.unwrap());
    }
    assert_eq!(place.rows().await, 1);
}

async fn a_claim_lives_for_as_long_as_it_is_taken_for(place: SqlPlace) {
    let store: SqlStore<u32> = place.store().await;
    let second = Duration::from_secs(1);
    let left = async || place.number("SELECT expires_at - {now} FROM {t}").await.unwrap();
    for (life, most) in [(2 * second, 2_000), (60 * second, 10_000)] {
        let claim = store.claim_within(&key("k"), life).await.unwrap();
        assert!(claim.granted && claim.vacant);
        assert!((most - 1_500..=most + 1).contains(&left().await));
        store.renew_claims(&[(key("k"), claim.ticket)], 5 * second).await.unwrap();
        assert!((3_500..=5_001).contains(&left().await));
        store.renew_claims(&[(key("k"), claim.ticket)], 60 * second).await.unwrap();
        assert!((8_500..=10_001).contains(&left().await));
        store.release(&key("k"), claim.ticket).await.unwrap();
        assert_eq!(place.rows().await, 0);
    }
}

async fn a_renewal_is_of_the_claim_that_is_held_and_of_nothing_else(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let (short, long) = (Duration::from_secs(2), Duration::from_secs(9));
    let end = async || place.number("SELECT MAX(expires_at) FROM {t}").await;
    let renew = async |ticket| theirs.renew_claims(&[(key("k"), ticket)], long).await.unwrap();
    let claim = async || ours.claim_within(&key("k"), short).await.unwrap();
    // A claim that was released, and one that another process holds by now.
    let first = claim().await;
    ours.release(&key("k"), first.ticket).await.unwrap();
    renew(first.ticket).await;
    assert_eq!(place.rows().await, 0);
    let second = claim().await;
    assert!(second.granted);
    let before = end().await;
    renew(first.ticket).await;
    renew(Ticket::unconditional()).await;
    assert_eq!(end().await, before);
    // One that has run out.
    place.execute("UPDATE {t} SET expires_at = 1").await;
    renew(second.ticket).await;
    assert_eq!(end().await, Some(1));
    let third = claim().await;
    assert!(third.granted);
    // A value that the claim has brought.
    assert!(ours.fill(never(&key("k"), 1, third.ticket)).await.unwrap());
    renew(third.ticket).await;
    assert_eq!(end().await, None);
    assert_eq!(claimed_value(&ours).await, Some(1));
    // A plain lease.
    ours.del(&key("k")).await.unwrap();
    let lease = ours.lease_within(&key("k"), short).await.unwrap();
    let before = end().await;
    renew(lease).await;
    assert_eq!(end().await, before);
}

/// Claims with a life of 3 s are held for 5 s, by renewals.
async fn renewals_keep_others_off_for_as_long_as_they_go_on(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    let remove = async |name: &str| {
        let id = place.bytes(name.as_bytes());
        place.execute(&format!("DELETE FROM {{t}} WHERE id = {id}")).await;
        place.rows().await == 1
    };
    hold_claims(&ours, &theirs, remove).await;
}

async fn a_batch_of_claims_is_one_of_each_kind(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    claim_a_batch(&ours, &theirs).await;
}
