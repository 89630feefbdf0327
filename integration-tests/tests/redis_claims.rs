//! Claims in Redis.

use std::time::Duration;

use cache_core::{
    Claim, Clock as _, Entry, ErrorKind, Expiry, ManualClock, Store as _, Ticket, Ttl, Write,
    backend::{Binding, Envelope},
    codec,
};
use integration_tests::{
    Backend as _, RedisServer,
    claims::{claim, granted, refused},
    key, living, never, value,
};
use store_redis::RedisStore;

integration_tests::claim_cases!(
    on_redis,
    a_plain_store_grants_every_claim_and_leaves_nothing,
    markers_tell_claims_from_leases_by_the_top_bit_of_their_ids,
    what_cannot_be_read_refuses_no_claim,
    what_has_expired_for_its_readers_gives_way_to_one_claim,
    a_record_from_the_future_gives_way_to_one_claim,
);

/// The server's clock is known to within a round trip, and readers count from the latest that it can
/// be. So Redis holds a record for a moment after its readers have found none.
async fn what_has_expired_for_its_readers_gives_way_to_one_claim(server: RedisServer) {
    let (ttl, clock) = (Duration::from_secs(20), ManualClock::new());
    let writer = server.connect().await;
    let reader = async || -> RedisStore<u32> {
        RedisStore::builder(server.url()).namespace("n").clock(clock.shared()).connect().await.unwrap()
    };
    let (ours, theirs) = (reader().await, reader().await);
    writer.set(living(&key("k"), 1, ttl)).await.unwrap();
    writer.set(living(&key("l"), 1, ttl)).await.unwrap();
    assert_eq!((value(&ours, &key("k")).await, value(&theirs, &key("k")).await), (Some(1), Some(1)));
    assert!(!claim(&ours).await.vacant, "its value is there");
    let old = ours.lease(&key("k")).await.unwrap();

    // Less than the time for which a reading of the server's clock is used.
    clock.advance(ttl + Duration::from_secs(1));
    assert_eq!((value(&ours, &key("k")).await, value(&theirs, &key("k")).await), (None, None));
    assert_eq!(server.cli(&["EXISTS", "n:k", "n:l"]), "2");
    let claimed = claim(&ours).await;
    assert!(claimed.granted && claimed.vacant, "{claimed:?}");
    assert_eq!(refused(&theirs).await, claimed.ticket);
    assert!(!theirs.fill(never(&key("k"), 2, old)).await.unwrap(), "the lease was of the record");
    assert!(ours.fill(never(&key("k"), 3, claimed.ticket)).await.unwrap());
    assert_eq!(value(&theirs, &key("k")).await, Some(3));

    // A lease is not of the record either, which would be void in a moment.
    let lease = ours.lease(&key("l")).await.unwrap();
    assert_eq!(value(&writer, &key("l")).await, None, "a marker has replaced it");
    assert!(ours.fill(never(&key("l"), 2, lease)).await.unwrap());
    assert_eq!(value(&writer, &key("l")).await, Some(2));
}

/// Readers count it as expired: it is from before the server's clock was set back.
async fn a_record_from_the_future_gives_way_to_one_claim(server: RedisServer) {
    let clock = ManualClock::new();
    let ahead: RedisStore<u32> =
        RedisStore::builder(server.url()).namespace("n").clock(clock.shared()).connect().await.unwrap();
    let (ours, theirs) = (server.connect().await, server.connect().await);
    clock.advance(Duration::from_secs(30));
    let expiry = Expiry::after(clock.now(), Ttl::After(Duration::from_secs(20)));
    ahead.set(Write::new(key("k"), Entry::new(1, expiry), Ticket::unconditional())).await.unwrap();
    assert_eq!(value(&ours, &key("k")).await, None);
    assert_eq!(server.cli(&["EXISTS", "n:k"]), "1");
    let claimed = claim(&ours).await;
    assert!(claimed.granted && claimed.vacant, "{claimed:?}");
    assert_eq!(refused(&theirs).await, claimed.ticket);
}

async fn what_cannot_be_read_refuses_no_claim(server: RedisServer) {
    let (ours, theirs) = (server.connect().await, server.connect().await);
    // A claim that another program has overwritten is not held any more.
    let held = [(key("k"), granted(&ours).await)];
    for foreign in [&["SET", "n:k", "foreign"][..], &["RPUSH", "n:k", "a"]] {
        server.cli(&["DEL", "n:k"]);
        server.cli(foreign);
        ours.renew_claims(&held, Duration::from_secs(9)).await.unwrap();
        ours.release(&held[0].0, held[0].1).await.unwrap();
        assert_eq!(server.cli(&["PTTL", "n:k"]), "-1", "{foreign:?}");
    }
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
        assert_eq!(value(&theirs, &key("k")).await, Some(1));
    }
    // So that nobody is kept off for ever, a record of another codec is not taken for somebody's
    // work in progress.
    let json: RedisStore<u32, _> =
        RedisStore::builder(server.url()).namespace("n").codec(codec::Json).connect().await.unwrap();
    json.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
    assert_eq!(ours.get(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec);
    let ticket = granted(&ours).await;
    assert!(ours.fill(never(&key("k"), 2, ticket)).await.unwrap());
    assert_eq!(value(&theirs, &key("k")).await, Some(2));
}

async fn markers_tell_claims_from_leases_by_the_top_bit_of_their_ids(server: RedisServer) {
    let store = server.connect().await;
    let lease = store.lease(&key("l")).await.unwrap().version().unwrap();
    let claim = granted(&store).await.version().unwrap();
    assert!(lease >> 63 == 0 && claim >> 63 == 1);
    for (name, id) in [(&b"n:l"[..], lease), (b"n:k", claim)] {
        let marker = server.raw(&[b"GET", name]);
        let created = u64::from_le_bytes(marker[Envelope::CREATED].try_into().unwrap());
        let binding = Binding::new(name, Envelope::epoch(&marker).unwrap());
        assert_eq!(marker, Envelope::lease(binding, id, created));
    }
}

async fn a_plain_store_grants_every_claim_and_leaves_nothing(server: RedisServer) {
    let store: RedisStore<u32, _> =
        RedisStore::builder(server.url()).namespace("n").codec(codec::Json).plain().connect().await.unwrap();
    assert!(!store.profile().claims);
    for _ in 0..2 {
        let claim = store.claim(&key("k")).await.unwrap();
        assert_eq!(claim, Claim::granted(Ticket::unconditional()));
    }
    store.release(&key("k"), Ticket::at(u64::MAX)).await.unwrap();
    store.renew_claims(&[(key("k"), Ticket::at(u64::MAX))], Duration::from_secs(1)).await.unwrap();
    assert_eq!(server.cli(&["DBSIZE"]), "0");
    assert_eq!(server.calls(&["evalsha", "script|load"]), [0, 0], "the documented permissions have no scripts");
}
