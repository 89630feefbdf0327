//! G7: a tier that does not answer is skipped, a call keeps its deadline, and entries that may be
//! outdated are not read from a tier.

use std::{io, time::Duration};

use crate::support::{Rig, key, settle};
use cache_chain::{Breaker, ErrorKind, Tier};
use cache_core::{
    Entry, Expiry, Key, Store, Write,
    testkit::{Operation, block_on},
};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn breaking(at: usize, tier: Tier<String>) -> Tier<String> {
    if at == 1 {
        tier.timeout(SECOND).breaker(Breaker::new().failures(3).probe_interval(10 * SECOND))
    } else {
        tier.no_breaker()
    }
}

fn owned(value: &str) -> String {
    value.to_owned()
}

#[tokio::test(start_paused = true)]
async fn g7_a_dead_tier_costs_its_timeout_a_few_times_and_then_nothing() {
    let rig = Rig::with(3, breaking);
    rig.put(2, "k", "v", Expiry::Never);
    rig.stores[1].stall(Operation::Get);
    let started = Instant::now();
    for number in 0..3 {
        rig.put(2, &number.to_string(), "v", Expiry::Never);
        assert_eq!(rig.chain.get(number).await.unwrap().as_deref(), Some("v"));
    }
    assert_eq!(started.elapsed(), 3 * SECOND);
    let asked = rig.stores[1].calls().len();
    let gate = rig.stores[0].stall(Operation::Fill);
    for _ in 0..1000 {
        rig.chain.get("k").await.unwrap();
    }
    gate.open();
    let error = rig.chain.get("absent").await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unavailable && error.to_string().contains("circuit breaker open for tier L2 map"),
        "{error}"
    );
    assert_eq!(started.elapsed(), 3 * SECOND, "it is not waited for");
    assert_eq!(rig.stores[1].calls().len(), asked, "nor asked");
    let stats = &rig.chain.stats().tiers[1];
    assert_eq!((stats.timeouts, stats.errors, stats.skipped), (3, 3, 1001), "what is not asked does not fail");

    tokio::time::advance(10 * SECOND).await;
    rig.chain.get("probed").await.unwrap_err();
    assert_eq!(rig.stores[1].calls().len(), asked + 1, "one probe");
    rig.chain.get("not probed").await.unwrap_err();
    assert_eq!(rig.stores[1].calls().len(), asked + 1);

    rig.stores[1].heal();
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(rig.chain.get("back").await.unwrap(), None);
    assert_eq!(rig.chain.get("again").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn g7_a_deadline_is_divided_among_the_tiers() {
    let rig = Rig::built(3, |_, tier| tier.no_breaker(), |chain| chain.timeout(3 * SECOND));
    rig.put(2, "k", "v", Expiry::Never);
    rig.stores[0].stall(Operation::Get);
    rig.stores[1].stall(Operation::Get);
    let started = Instant::now();
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("v"), "two that hang leave time for the third");
    assert_eq!(started.elapsed(), 2 * SECOND);
    assert_eq!(rig.chain.get_many(["k"]).await.unwrap(), [Some(owned("v"))]);
    assert_eq!(started.elapsed(), 4 * SECOND);
    rig.stores[2].stall(Operation::Get);
    let started = Instant::now();
    assert_eq!(rig.chain.get("k").await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(started.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn g7_a_loader_has_its_share_of_the_deadline() {
    let rig = Rig::built(2, |_, tier| tier.no_breaker(), |chain| chain.timeout(3 * SECOND));
    rig.stores[0].stall(Operation::Get);
    rig.stores[1].stall(Operation::Get);
    let started = Instant::now();
    let value = rig.chain.get_or_load("k", || async {
        tokio::time::sleep(SECOND / 2).await;
        Ok::<_, io::Error>(owned("v"))
    });
    assert_eq!((value.await.unwrap(), started.elapsed()), (owned("v"), 5 * SECOND / 2));
    rig.stores[0].heal();
    rig.stores[1].heal();
    let value = rig.chain.get_or_load("l", || async {
        tokio::time::sleep(2 * SECOND).await;
        Ok::<_, io::Error>(owned("v"))
    });
    assert_eq!(value.await.unwrap(), "v");
}

#[tokio::test(start_paused = true)]
async fn g7_a_write_that_is_late_goes_on() {
    let rig = Rig::built(2, |_, tier| tier, |chain| chain.timeout(SECOND));
    let gate = rig.stores[1].stall(Operation::Set);
    let started = Instant::now();
    let error = rig.chain.set("k", owned("v")).await.unwrap_err();
    assert_eq!((error.kind(), started.elapsed()), (ErrorKind::Timeout, SECOND));
    gate.open();
    settle().await;
    assert_eq!([0, 1].map(|tier| rig.value(tier, "k")), [Some(owned("v")), Some(owned("v"))]);
}

/// In a batch, too, a key that awaits its deletion is neither asked for nor taken for absent.
#[tokio::test(start_paused = true)]
async fn g7_a_batch_asks_only_for_the_keys_that_may_be_read() {
    let rig = Rig::with(1, |_, tier| tier.no_breaker());
    rig.chain.set("other", owned("kept")).await.unwrap();
    rig.stores[0].fail(Operation::Set, ErrorKind::Unavailable);
    rig.stores[0].fail(Operation::Del, ErrorKind::Unavailable);
    rig.chain.set("k", owned("new")).await.unwrap_err();
    for keys in [["k", "other"], ["other", "k"]] {
        let before = rig.stores[0].calls().len();
        assert_eq!(rig.chain.get_many(keys).await.unwrap_err().kind(), ErrorKind::Unavailable);
        let calls = rig.stores[0].calls();
        let asked = calls[before..].iter().filter(|call| call.operation == Operation::Get);
        assert_eq!(asked.map(|call| call.keys.clone()).collect::<Vec<_>>(), [[crate::support::key("other")]]);
    }
    rig.stores[0].heal();
    tokio::time::advance(SECOND).await;
    assert_eq!(rig.chain.get_many(["k", "other"]).await.unwrap(), [None, Some(owned("kept"))]);
}

#[tokio::test(start_paused = true)]
async fn g7_the_error_of_a_write_tells_whether_it_is_repaired() {
    let rig = Rig::new(2);
    for operation in [Operation::Set, Operation::Del] {
        rig.stores[1].fail(operation, ErrorKind::Unavailable);
    }
    assert!(rig.chain.set("k", owned("v")).await.unwrap_err().will_be_repaired());
    assert!(rig.chain.del("k").await.unwrap_err().will_be_repaired());
    assert!(!rig.chain.set("", owned("v")).await.unwrap_err().will_be_repaired(), "nothing was written");
    // An origin keeps what it has.
    let rig = Rig::with(2, |at, tier| tier.origin(at == 1));
    rig.stores[1].fail(Operation::Set, ErrorKind::Unavailable);
    assert!(!rig.chain.set("k", owned("v")).await.unwrap_err().will_be_repaired());
    rig.stores[0].fail(Operation::Lease, ErrorKind::Unavailable);
    assert!(!rig.chain.set("k", owned("v")).await.unwrap_err().will_be_repaired(), "one of two is not");
}

/// What a write that failed leaves behind in a tier is not read there, though the tier is back,
/// until it is deleted there.
#[tokio::test(start_paused = true)]
async fn g7_what_was_replaced_while_a_tier_was_down_is_deleted_before_it_is_read_again() {
    for (operation, way) in [(Operation::Set, "set"), (Operation::Del, "del"), (Operation::Set, "set_many")] {
        let rig = Rig::with(3, |_, tier| tier.no_breaker());
        rig.chain.set("k", owned("old")).await.unwrap();
        rig.chain.set("other", owned("kept")).await.unwrap();
        for operation in [Operation::Lease, Operation::Set, Operation::Del] {
            rig.stores[1].fail(operation, ErrorKind::Unavailable);
        }
        let written = match way {
            "set" => rig.chain.set("k", owned("new")).await,
            "del" => rig.chain.del("k").await,
            _ => rig.chain.set_many([("k", owned("new"))]).await,
        };
        written.unwrap_err();
        let new = (operation == Operation::Set).then(|| owned("new"));
        assert_eq!(rig.value(1, "k").as_deref(), Some("old"), "it is there still");
        assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 1);
        empty(&rig, 0, "k");
        // It can be read, but not written.
        let read = rig.chain.get("k").await;
        assert!(
            read.as_ref().map_or_else(|error| error.kind() == ErrorKind::Unavailable, |read| *read == new),
            "{read:?}"
        );
        empty(&rig, 0, "other");
        assert_eq!(rig.chain.get("other").await.unwrap().as_deref(), Some("kept"), "what is not concerned is read");

        settle().await;
        rig.stores[1].heal();
        tokio::time::advance(SECOND).await;
        settle().await;
        assert_eq!(rig.value(1, "k"), None, "it is deleted, so that other processes do not read it either");
        assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 0);
        empty(&rig, 0, "k");
        assert_eq!(rig.chain.get("k").await.unwrap(), new);
        rig.chain.wait().await.unwrap();
        assert_eq!(rig.value(1, "k"), new);
    }
}

/// A write whose outcome is unknown may take effect later: until a deletion is acknowledged,
/// nothing of the key is trusted.
#[tokio::test(start_paused = true)]
async fn g7_a_write_that_timed_out_leaves_its_key_distrusted() {
    let rig = Rig::with(2, |_, tier| tier.timeout(SECOND).no_breaker());
    rig.chain.set("k", owned("old")).await.unwrap();
    rig.stores[1].stall(Operation::Set);
    rig.stores[1].fail(Operation::Del, ErrorKind::Timeout);
    assert_eq!(rig.chain.set("k", owned("new")).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(rig.value(0, "k"), None);
    for _ in 0..2 {
        let error = rig.chain.get("k").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "the deletion failed, and so does the read");
        tokio::time::advance(SECOND).await;
        // The background has just tried; the next read may try again a little later.
        settle().await;
        tokio::time::advance(SECOND / 2).await;
    }
    assert_eq!(rig.chain.get_many(["k"]).await.unwrap_err().kind(), ErrorKind::Timeout);
    // Nothing is filled where it would be deleted.
    rig.stores[1].heal();
    tokio::time::advance(SECOND).await;
    assert_eq!(rig.chain.get("k").await.unwrap(), None, "neither the old value nor the new one is known to hold");
    assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 0);
    assert_eq!(rig.value(1, "k"), None);
}

#[tokio::test(start_paused = true)]
async fn g7_a_write_that_succeeds_settles_the_matter() {
    let rig = Rig::with(2, |_, tier| tier.no_breaker());
    rig.stores[1].fail(Operation::Set, ErrorKind::Full);
    rig.chain.set("k", owned("new")).await.unwrap_err();
    assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 1);
    rig.stores[1].heal();
    rig.chain.set("k", owned("newer")).await.unwrap();
    assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 0);
    let dels = rig.stores[1].calls_of(Operation::Del);
    empty(&rig, 0, "k");
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("newer"));
    assert_eq!(rig.stores[1].calls_of(Operation::Del), dels);
}

/// The probe deletes first; nobody reads the tier before.
#[tokio::test(start_paused = true)]
async fn g7_a_tier_that_recovers_is_repaired_by_the_probe() {
    let rig =
        Rig::with(
            2,
            |at, tier| if at == 1 { tier.breaker(Breaker::new().failures(2).probe_interval(SECOND)) } else { tier },
        );
    for number in 0..600 {
        rig.chain.set(number, owned("old")).await.unwrap();
    }
    for operation in [Operation::Get, Operation::Set, Operation::Del] {
        rig.stores[1].fail(operation, ErrorKind::Unavailable);
    }
    for number in 0..600 {
        rig.chain.del(number).await.unwrap_err();
    }
    assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 600);
    rig.stores[1].heal();
    assert_eq!(rig.chain.get(1).await.unwrap_err().kind(), ErrorKind::Unavailable, "not yet");
    tokio::time::advance(SECOND).await;
    let before = rig.stores[1].calls().len();
    assert_eq!(rig.chain.get(1).await.unwrap(), None);
    let calls: Vec<_> = rig.stores[1].calls()[before..].iter().map(|call| (call.operation, call.keys.len())).collect();
    assert_eq!(calls, [(Operation::Del, 256), (Operation::Del, 256), (Operation::Del, 88), (Operation::Get, 1)]);
    for number in 0..600 {
        assert_eq!(rig.chain.get(number).await.unwrap(), None);
    }
}

/// What the journal has no room for: everything made before the recovery is distrusted, what is
/// made after it is not.
#[tokio::test(start_paused = true)]
async fn g7_a_journal_that_overflows_distrusts_the_whole_tier() {
    let rig = Rig::with(2, |at, tier| if at == 1 { tier.no_breaker().pending_deletes(10) } else { tier });
    for number in 0..30 {
        rig.chain.set(number, owned("old")).await.unwrap();
    }
    rig.stores[1].fail(Operation::Del, ErrorKind::Unavailable);
    for number in 0..20 {
        rig.chain.del(number).await.unwrap_err();
    }
    empty(&rig, 0, "25");
    assert_eq!(rig.chain.get(25).await.unwrap_err().kind(), ErrorKind::Unavailable);
    rig.stores[1].heal();
    rig.clock.advance(SECOND);
    tokio::time::advance(SECOND).await;
    for number in (0..20).chain([25]) {
        assert_eq!(rig.chain.get(number).await.unwrap(), None, "{number} is not trusted");
    }
    rig.clock.advance(SECOND);
    rig.chain.set(25, owned("new")).await.unwrap();
    empty(&rig, 0, "25");
    assert_eq!(rig.chain.get(25).await.unwrap().as_deref(), Some("new"));
    // What somebody wrote who does not say when is not trusted, until everything was cleared.
    rig.put(1, "undated", "v", Expiry::Never);
    assert_eq!(rig.chain.get("undated").await.unwrap(), None);
    rig.chain.clear().await.unwrap();
    rig.put(1, "undated", "v", Expiry::Never);
    assert_eq!(rig.chain.get("undated").await.unwrap().as_deref(), Some("v"));
}

#[tokio::test(start_paused = true)]
async fn g7_a_clear_that_failed_is_made_up_for() {
    let rig = Rig::with(2, |_, tier| tier.no_breaker());
    rig.chain.set("k", owned("old")).await.unwrap();
    rig.stores[1].fail(Operation::Clear, ErrorKind::Unavailable);
    rig.chain.clear().await.unwrap_err();
    rig.stores[1].heal();
    rig.clock.advance(SECOND);
    tokio::time::advance(SECOND).await;
    assert_eq!(rig.chain.get("k").await.unwrap(), None, "it is there, and older than the clear");
    assert_eq!(rig.value(1, "k").as_deref(), Some("old"));
}

/// A backfill that comes late does not bring back into a distrusted tier what its deletion is to
/// remove.
#[tokio::test(start_paused = true)]
async fn g7_nothing_is_filled_into_what_is_distrusted() {
    let rig = Rig::with(3, |_, tier| tier.no_breaker());
    rig.put(2, "k", "v", Expiry::Never);
    for operation in [Operation::Set, Operation::Del] {
        rig.stores[1].fail(operation, ErrorKind::ReadOnly);
    }
    rig.chain.set("k", owned("new")).await.unwrap_err();
    let fills = rig.stores[1].calls_of(Operation::Fill);
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("new"));
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.stores[1].calls_of(Operation::Fill), fills);
}

/// The truth itself is not deleted because a write of it failed.
#[tokio::test]
async fn g7_an_origin_is_never_deleted_from() {
    let deleted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&deleted);
    let origin = cache_chain::Origin::new(|_: Key| async { Ok::<_, io::Error>(Some(owned("truth"))) })
        .write_through(|_, _: String| async { Err::<(), _>(io::Error::other("refused")) })
        .del_through(move |_| {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async { Ok::<_, io::Error>(()) }
        });
    let memory = cache_core::testkit::MapStore::new();
    let chain = cache_chain::ChainCache::builder().tier(memory).tier(origin).build().unwrap();
    chain.set("k", owned("new")).await.unwrap_err();
    assert_eq!(chain.get("k").await.unwrap().as_deref(), Some("truth"));
    assert_eq!(deleted.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn g7_nor_is_a_tier_that_is_said_to_hold_the_truth() {
    let rig = Rig::with(2, |at, tier| tier.no_breaker().origin(at == 1));
    rig.chain.set("k", owned("old")).await.unwrap();
    rig.stores[1].fail(Operation::Set, ErrorKind::Full);
    rig.chain.set("k", owned("new")).await.unwrap_err();
    rig.stores[1].fail(Operation::Clear, ErrorKind::Full);
    rig.chain.clear().await.unwrap_err();
    assert_eq!(rig.chain.get("k").await.unwrap().as_deref(), Some("old"));
    assert_eq!(rig.stores[1].calls_of(Operation::Del), 0);
    assert_eq!(rig.chain.stats().tiers[1].pending_deletes, 0);
}

/// Empties one tier of a key, as an eviction would.
fn empty(rig: &Rig, tier: usize, name: &str) {
    block_on(Store::del(rig.stores[tier].inner(), &key(name))).unwrap();
}

/// What a tier holds without a date cannot be told from what was lost; what is dated can.
#[tokio::test]
async fn what_a_chain_writes_is_dated() {
    let rig = Rig::new(1);
    rig.clock.advance(SECOND);
    rig.chain.set("k", owned("v")).await.unwrap();
    assert_eq!(rig.held(0, "k").unwrap().created(), Some(cache_core::Clock::now(&rig.clock)));
    let undated = Write::new(key("l"), Entry::new(owned("v"), Expiry::Never), cache_core::Ticket::unconditional());
    block_on(rig.stores[0].inner().set(undated)).unwrap();
    assert_eq!(rig.chain.get_detailed("l").await.unwrap().age, None);
}

/// A tier whose leases are denied is never filled; that shows in the statistics.
#[tokio::test]
async fn a_backfill_without_a_lease_counts_as_failed() {
    let rig = Rig::new(3);
    rig.stores[1].fail(Operation::Lease, ErrorKind::Denied);
    let failed = || rig.chain.stats().backfill.failed;
    for name in ["one", "two"] {
        rig.put(2, name, "v", Expiry::Never);
    }
    assert_eq!(rig.chain.get("one").await.unwrap().as_deref(), Some("v"));
    assert_eq!(failed(), 1);
    assert_eq!(rig.chain.get_many(["two"]).await.unwrap(), [Some(owned("v"))]);
    assert_eq!(failed(), 2);
    rig.chain.wait().await.unwrap();
    assert_eq!(rig.value(0, "two").as_deref(), Some("v"), "the tier that gives leases is filled");
    assert_eq!(rig.chain.get("none").await.unwrap(), None);
    assert_eq!(failed(), 2, "there is nothing to be filled");
    let load = || async { Ok::<_, io::Error>(owned("v")) };
    rig.chain.get_or_load("three", load).await.unwrap();
    assert_eq!(failed(), 3);
    let load = |keys: Vec<&'static str>| async move {
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, owned("v"))).collect::<Vec<_>>())
    };
    rig.chain.get_or_load_many(["four", "five"], load).await.unwrap();
    assert_eq!(failed(), 5);

    // A tier that does not answer at all counts as an error, not as a failed backfill.
    rig.stores[1].fail(Operation::Get, ErrorKind::Denied);
    rig.put(2, "six", "v", Expiry::Never);
    assert_eq!(rig.chain.get("six").await.unwrap().as_deref(), Some("v"));
    assert_eq!(failed(), 5);
}
