//! Claims in Redis: one process at a time loads what is absent.

use std::time::Duration;

use cache_core::{
    Claim, ErrorKind, Store as _, Ticket,
    backend::{Binding, Envelope},
    codec,
};
use integration_tests::{
    RedisServer,
    claims::{claim, claim_a_batch, claimed_value, granted, hold_claims, race_claims, refused},
    eventually, key, never,
};
use store_redis::RedisStore;

async fn store(server: &RedisServer) -> RedisStore<u32> {
    RedisStore::builder(server.url()).namespace("n").connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_claims_of_two_processes_one_is_granted() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    race_claims(&ours, &theirs, 50).await;
}

#[tokio::test]
async fn the_claim_of_a_holder_who_died_runs_out_whoever_asks_meanwhile() {
    let server = RedisServer::start().await;
    let theirs: RedisStore<u32> =
        RedisStore::builder(server.url()).namespace("n").lease_ttl(Duration::from_secs(2)).connect().await.unwrap();
    let ours = store(&server).await;
    let dead = granted(&theirs).await;
    let left = || server.cli(&["PTTL", "n:k"]).parse::<i64>().unwrap();
    assert!((1..=2_000).contains(&left()));
    // Neither claims nor leases, of which the other store's would last for 10 s, keep it alive.
    assert_eq!(refused(&ours).await, dead);
    assert_eq!(ours.lease(&key("k")).await.unwrap(), dead);
    assert!(left() <= 2_000, "{}", left());
    let next =
        eventually("the end of the claim", async || Some(claim(&ours).await).filter(|claim| claim.granted)).await;
    assert_ne!(next.ticket, dead);
    assert!(!theirs.fill(never(&key("k"), 1, dead)).await.unwrap(), "the dead one comes back too late");
    assert!(ours.fill(never(&key("k"), 2, next.ticket)).await.unwrap());
}

#[tokio::test]
async fn a_plain_lease_refuses_no_claim_and_gives_way() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let lease = ours.lease(&key("k")).await.unwrap();
    let claim = granted(&theirs).await;
    assert_ne!(claim, lease);
    assert!(!ours.fill(never(&key("k"), 1, lease)).await.unwrap());
    assert!(theirs.fill(never(&key("k"), 2, claim)).await.unwrap());
    assert_eq!(claimed_value(&ours).await, Some(2));
}

#[tokio::test]
async fn a_release_frees_the_claim_and_nothing_else() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let first = granted(&ours).await;
    ours.release(&key("k"), first).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "n:k"]), "0");
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

#[tokio::test]
async fn a_write_frees_the_claim_and_voids_its_ticket() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    for write in ["set", "del", "clear", "DEL"] {
        ours.del(&key("k")).await.unwrap();
        let ticket = granted(&ours).await;
        match write {
            "set" => theirs.set(never(&key("k"), 2, Ticket::unconditional())).await.unwrap(),
            "del" => theirs.del(&key("k")).await.unwrap(),
            "clear" => theirs.clear().await.unwrap(),
            _ => assert_eq!(server.cli(&["DEL", "n:k"]), "1"),
        }
        assert!(!ours.fill(never(&key("k"), 1, ticket)).await.unwrap(), "{write}");
        assert_ne!(granted(&theirs).await, ticket, "{write}");
    }
}

#[tokio::test]
async fn a_value_that_has_just_come_is_no_claim() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
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

#[tokio::test]
async fn what_cannot_be_read_refuses_no_claim() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    // Bytes and types that are no record give way to a claim; it then refuses others.
    for foreign in
        [&["SET", "n:k", "foreign"][..], &["SET", "n:k", "MLC\u{3}........................"], &["RPUSH", "n:k", "a"]]
    {
        server.cli(&["DEL", "n:k"]);
        server.cli(foreign);
        assert_eq!(ours.get(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec);
        let ticket = granted(&ours).await;
        assert_eq!(refused(&theirs).await, ticket);
        assert!(ours.fill(never(&key("k"), 1, ticket)).await.unwrap());
        assert_eq!(claimed_value(&theirs).await, Some(1));
    }
    // So that nobody is kept off for ever, a record of another codec is not taken for somebody's
    // work in progress.
    let json: RedisStore<u32, _> =
        RedisStore::builder(server.url()).namespace("n").codec(codec::Json).connect().await.unwrap();
    json.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
    assert_eq!(ours.get(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec);
    let ticket = granted(&ours).await;
    assert!(ours.fill(never(&key("k"), 2, ticket)).await.unwrap());
    assert_eq!(claimed_value(&theirs).await, Some(2));
}

#[tokio::test]
async fn markers_tell_claims_from_leases_by_the_top_bit_of_their_ids() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let lease = store.lease(&key("l")).await.unwrap().version().unwrap();
    let claim = granted(&store).await.version().unwrap();
    assert!(lease >> 63 == 0 && claim >> 63 == 1);
    for (name, id) in [(&b"n:l"[..], lease), (b"n:k", claim)] {
        let marker = server.raw(&[b"GET", name]);
        let created = u64::from_le_bytes(marker[Envelope::CREATED].try_into().unwrap());
        let binding = Binding { key: name, epoch: Envelope::epoch(&marker).unwrap() };
        assert_eq!(marker, Envelope::lease(binding, id, created));
    }
}

#[tokio::test]
async fn a_plain_store_grants_every_claim_and_leaves_nothing() {
    let server = RedisServer::start().await;
    let store: RedisStore<u32, _> =
        RedisStore::builder(server.url()).namespace("n").codec(codec::Json).plain().connect().await.unwrap();
    assert!(!store.profile().claims);
    for _ in 0..2 {
        let claim = store.claim(&key("k")).await.unwrap();
        assert_eq!(claim, Claim::granted(Ticket::unconditional()));
    }
    store.release(&key("k"), Ticket::at(u64::MAX)).await.unwrap();
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

/// A claim lives for as long as it is taken for, and not for longer than leases.
#[tokio::test]
async fn a_claim_lives_for_as_long_as_it_is_taken_for() {
    let server = RedisServer::start().await;
    let store = store(&server).await;
    let second = Duration::from_secs(1);
    let left = |name: &str| server.cli(&["PTTL", &format!("n:{name}")]).parse::<i64>().unwrap();
    for (name, life, most) in [("short", 2 * second, 2_000), ("long", 60 * second, 10_000)] {
        let claim = store.claim_within(&key(name), life).await.unwrap();
        assert!(claim.granted && claim.vacant);
        assert!((most - 1_500..=most).contains(&left(name)), "{}", left(name));
        store.renew_claims(&[(key(name), claim.ticket)], 5 * second).await.unwrap();
        assert!((3_500..=5_000).contains(&left(name)), "{}", left(name));
        store.renew_claims(&[(key(name), claim.ticket)], 60 * second).await.unwrap();
        assert!((8_500..=10_000).contains(&left(name)), "{}", left(name));
    }
}

#[tokio::test]
async fn a_renewal_is_of_the_claim_that_is_held_and_of_nothing_else() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    let (short, long) = (Duration::from_secs(2), Duration::from_secs(9));
    let left = || server.cli(&["PTTL", "n:k"]).parse::<i64>().unwrap();
    let renew = async |ticket| theirs.renew_claims(&[(key("k"), ticket)], long).await.unwrap();
    let claim = async || ours.claim_within(&key("k"), short).await.unwrap();
    // A claim that was released, and one that another process holds by now.
    let first = claim().await;
    ours.release(&key("k"), first.ticket).await.unwrap();
    renew(first.ticket).await;
    assert_eq!(left(), -2);
    let second = claim().await;
    assert!(second.granted);
    renew(first.ticket).await;
    renew(Ticket::unconditional()).await;
    assert!((0..=2_000).contains(&left()), "{}", left());
    // A value that the claim has brought.
    assert!(ours.fill(never(&key("k"), 1, second.ticket)).await.unwrap());
    renew(second.ticket).await;
    assert_eq!(left(), -1);
    assert_eq!(claimed_value(&ours).await, Some(1));
    // A plain lease.
    ours.del(&key("k")).await.unwrap();
    let lease = ours.lease_within(&key("k"), short).await.unwrap();
    renew(lease).await;
    assert!((0..=2_000).contains(&left()), "{}", left());
    // What is not of this store.
    for foreign in [&["SET", "n:k", "foreign"][..], &["RPUSH", "n:k", "a"]] {
        server.cli(&["DEL", "n:k"]);
        server.cli(foreign);
        renew(second.ticket).await;
        assert_eq!(left(), -1);
    }
}

/// Claims with a life of 3 s are held for 5 s, by renewals.
#[tokio::test]
async fn renewals_keep_others_off_for_as_long_as_they_go_on() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    hold_claims(&ours, &theirs, async |name| server.cli(&["DEL", &format!("n:{name}")]) == "1").await;
}

#[tokio::test]
async fn a_batch_of_claims_is_one_of_each_kind() {
    let server = RedisServer::start().await;
    let (ours, theirs) = (store(&server).await, store(&server).await);
    claim_a_batch(&ours, &theirs).await;
}
