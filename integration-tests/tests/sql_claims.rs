//! Claims in a table.

use std::time::Duration;

use cache_core::{ErrorKind, Store as _, Ticket};
use integration_tests::{
    SqlPlace,
    claims::{granted, refused},
    key, living, never, value,
};
use store_sql::SqlStore;

integration_tests::claim_cases!(on_each_database, what_cannot_be_read_or_has_expired_refuses_no_claim);

async fn what_cannot_be_read_or_has_expired_refuses_no_claim(place: SqlPlace) {
    let (ours, theirs): (SqlStore<u32>, SqlStore<u32>) = (place.store().await, place.store().await);
    // So that nobody is kept off for ever, what cannot be read is not taken for somebody's work in
    // progress.
    ours.set(never(&key("k"), 1, Ticket::unconditional())).await.unwrap();
    place.execute(&format!("UPDATE {{t}} SET value = {}", place.bytes(b"foreign"))).await;
    assert_eq!(ours.get(&key("k")).await.unwrap_err().kind(), ErrorKind::Codec);
    let ticket = granted(&ours).await;
    assert!(ours.fill(never(&key("k"), 2, ticket)).await.unwrap());
    assert_eq!(value(&theirs, &key("k")).await, Some(2));
    // What has expired is nothing, be it a value that a claim has brought.
    for claimed in [false, true] {
        ours.del(&key("k")).await.unwrap();
        let ticket = if claimed { granted(&ours).await } else { ours.lease(&key("k")).await.unwrap() };
        let write = living(&key("k"), 3, Duration::from_secs(60));
        assert!(ours.fill(write.with_ticket(ticket)).await.unwrap());
        place.execute("UPDATE {t} SET expires_at = 1").await;
        let next = granted(&theirs).await;
        assert_ne!(next, ticket);
        assert_eq!(refused(&ours).await, next);
        assert_eq!(value(&ours, &key("k")).await, None);
        assert!(!ours.fill(never(&key("k"), 4, ticket)).await.unwrap());
    }
    assert_eq!(place.rows().await, 1);
}
