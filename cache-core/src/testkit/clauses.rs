//! The clauses of the contract, one function each.

use std::{sync::mpsc, thread, time::Duration};

use super::{Clause, Harness, drop_after, join_all, reentrant::replace_in_each_way};
use crate::{Entry, ErrorKind, Expiry, Key, Lifetime, MAX_TTL, SharedClock, Store, Ticket, Ttl, Write};

type Verdict<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

// They use the macro above.
mod claims;
mod take;
mod touch;

pub(super) async fn check<H: Harness>(clause: Clause, harness: &H) -> Verdict {
    let test = Test { harness, store: harness.store().await, clock: harness.clock() };
    match clause {
        Clause::S1 => test.miss().await,
        Clause::S2 => test.expired().await,
        Clause::S3 => test.remaining().await,
        Clause::S4 => test.replaces().await,
        Clause::S5 => test.never_older().await,
        Clause::S6 => test.retains().await,
        Clause::S7 => test.positive_ttl().await,
        Clause::S8 => test.del().await,
        Clause::S9 => test.distinct_keys().await,
        Clause::S10 => test.undecodable().await,
        Clause::S11 => test.no_panic().await,
        Clause::S12 => test.cancel_safety().await,
        Clause::S13 => test.concurrent().await,
        Clause::S14 => test.clones().await,
        Clause::S15 => test.dropping().await,
        Clause::S16 => test.secrets().await,
        Clause::S17 => test.void_fill().await,
        Clause::S18 => test.void_set().await,
        Clause::S19 => test.claims().await,
        Clause::S20 => test.facets().await,
        Clause::S21 => test.released().await,
        Clause::S22 => test.values_that_call(),
        Clause::S23 => test.takes().await,
        Clause::S24 => test.touches().await,
    }
}

struct Test<'a, H: Harness> {
    harness: &'a H,
    store: H::Store,
    clock: SharedClock,
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a good key")
}

fn fault(doing: &str) -> impl Fn(crate::Error) -> String + use<'_> {
    move |error| format!("{doing} failed: {error:?}")
}

impl<H: Harness> Test<'_, H> {
    fn write(&self, name: &str, value: &str, ttl: Ttl, ticket: Ticket) -> Write<String> {
        let entry = Entry::new(value.to_owned(), Expiry::after(self.clock.now(), ttl));
        Write::new(key(name), entry, ticket)
    }

    async fn set(&self, name: &str, value: &str, ttl: Ttl) -> Verdict {
        let write = self.write(name, value, ttl, Ticket::unconditional());
        self.store.set(write).await.map_err(fault("set"))
    }

    async fn put(&self, name: &str, value: &str) -> Verdict {
        self.set(name, value, Ttl::Never).await
    }

    async fn entry(&self, name: &str) -> Verdict<Option<(String, Ttl)>> {
        let entry = self.store.get(&key(name)).await.map_err(fault("get"))?;
        Ok(entry.and_then(|entry| {
            let remaining = entry.remaining(self.clock.now());
            Some((entry.into_value()?, remaining))
        }))
    }

    async fn value(&self, name: &str) -> Verdict<Option<String>> {
        Ok(self.entry(name).await?.map(|(value, _)| value))
    }

    async fn lease(&self, name: &str) -> Verdict<Ticket> {
        self.store.lease(&key(name)).await.map_err(fault("lease"))
    }

    async fn expect(&self, name: &str, expected: Option<&str>, when: &str) -> Verdict {
        self.store.wait().await.map_err(fault("wait"))?;
        let found = self.value(name).await?;
        ensure!(found.as_deref() == expected, "{when}, get gave {found:?} instead of {expected:?}");
        Ok(())
    }

    async fn miss(&self) -> Verdict {
        self.expect("absent", None, "for a key never written").await?;
        for found in self.store.get_many(&[key("absent"), key("absent too")]).await {
            ensure!(matches!(found, Ok(None)), "get_many of keys never written gave {found:?}");
        }
        Ok(())
    }

    async fn expired(&self) -> Verdict {
        self.set("k", "v", Duration::from_millis(200).into()).await?;
        self.put("other", "v").await?;
        self.harness.pass(Duration::from_millis(250)).await;
        self.expect("k", None, "after its deadline").await?;
        self.expect("other", Some("v"), "without a deadline").await?;
        let many = self.store.get_many(&[key("k")]).await;
        ensure!(matches!(many[..], [Ok(None)]), "get_many gave an expired entry");
        Ok(())
    }

    async fn remaining(&self) -> Verdict {
        let (ttl, passed) = (Duration::from_secs(60), Duration::from_millis(100));
        self.set("k", "v", ttl.into()).await?;
        self.put("never", "v").await?;
        self.harness.pass(passed).await;
        let most = (ttl + self.store.profile().ttl_resolution).saturating_sub(passed);
        // On a real clock more may have passed than was asked for.
        let least = ttl / 2;
        match self.entry("k").await? {
            Some((_, Ttl::After(left))) => {
                ensure!(left <= most && left >= least, "{left:?} remain instead of {least:?} to {most:?}");
            }
            other => return Err(format!("get gave {other:?} instead of a TTL")),
        }
        let never = self.entry("never").await?;
        ensure!(matches!(never, Some((_, Ttl::Never))), "what never expires gave {never:?}");
        Ok(())
    }

    async fn replaces(&self) -> Verdict {
        self.set("k", "a", Duration::from_secs(10).into()).await?;
        self.put("k", "b").await?;
        let found = self.entry("k").await?;
        ensure!(found == Some(("b".into(), Ttl::Never)), "after a set without a TTL: {found:?}");
        self.set("k", "c", Duration::from_secs(100).into()).await?;
        match self.entry("k").await? {
            Some((value, Ttl::After(left))) => ensure!(
                value == "c" && left > Duration::from_secs(10) && left <= Duration::from_secs(100),
                "after a set with a TTL of 100 s: {value:?}, {left:?}"
            ),
            other => return Err(format!("after a set with a TTL: {other:?}")),
        }
        Ok(())
    }

    async fn never_older(&self) -> Verdict {
        self.put("k", "a").await?;
        self.put("k", "b").await?;
        self.expect("k", Some("b"), "after a second set").await?;
        self.put("k", "c").await?;
        let at_once = self.value("k").await?;
        ensure!(at_once.as_deref() == Some("c"), "right after a set, get gave {at_once:?}");
        if let Some(oversized) = self.harness.oversized() {
            // The store may return an error or not; the old value must be gone.
            let _ = self.put("k", &oversized).await;
            self.expect("k", None, "after an overwrite that the store has no room for").await?;
        }
        Ok(())
    }

    async fn retains(&self) -> Verdict {
        let names: Vec<String> = (0..300).map(|at| format!("k{at}")).collect();
        for name in &names {
            self.put(name, name).await?;
        }
        self.store.wait().await.map_err(fault("wait"))?;
        for name in &names {
            let found = self.value(name).await?;
            ensure!(found.is_none() || found.as_ref() == Some(name), "{name} gave {found:?}");
            ensure!(found.is_some() || !self.store.profile().retains, "{name} was not retained");
        }
        Ok(())
    }

    async fn positive_ttl(&self) -> Verdict {
        let (second, year) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 60 * 60));
        let ttls = [second / 1000, Duration::from_millis(999), second, 10 * year, 200 * year, Duration::MAX];
        for (at, ttl) in ttls.into_iter().enumerate() {
            let name = &format!("k{at}");
            self.set(name, "v", ttl.into()).await?;
            match self.entry(name).await? {
                Some((_, Ttl::After(left))) => {
                    ensure!(left <= ttl.min(MAX_TTL), "a TTL of {ttl:?} became {left:?}");
                    ensure!(ttl < second || left > ttl.min(MAX_TTL) / 2, "a TTL of {ttl:?} became {left:?}");
                }
                Some((_, Ttl::Never)) => return Err(format!("a TTL of {ttl:?} became never")),
                // On a real clock it may have passed already.
                None => ensure!(ttl < second, "what should live for {ttl:?} is gone"),
            }
        }
        Ok(())
    }

    async fn del(&self) -> Verdict {
        for _ in 0..2 {
            self.store.del(&key("absent")).await.map_err(fault("del of an absent key"))?;
        }
        self.put("k", "a").await?;
        self.put("k", "b").await?;
        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let at_once = self.value("k").await?;
        ensure!(at_once.is_none(), "right after a del, get gave {at_once:?}");
        self.store.del(&key("k")).await.map_err(fault("a second del"))?;
        self.expect("k", None, "after a del").await
    }

    async fn distinct_keys(&self) -> Verdict {
        let long = vec![b'k'; Key::MAX_LEN];
        let mut other_long = long.clone();
        other_long[Key::MAX_LEN - 1] = b'l';
        let bytes: [&[u8]; 14] = [
            b"a",
            b"A",
            b"a ",
            b" a",
            b"a\0",
            b"\0",
            b"\xff",
            b"\xff\xfe",
            b"a*",
            b"a:b",
            b"a%3Ab",
            "\u{e4}".as_bytes(),
            &long,
            &other_long,
        ];
        let keys = Key::many(bytes).map_err(fault("making a key"))?;
        let writes = keys.iter().enumerate().map(|(at, key)| {
            Write::new(key.clone(), Entry::new(at.to_string(), Expiry::Never), Ticket::unconditional())
        });
        let set = self.store.set_many(writes.collect()).await;
        ensure!(set.len() == keys.len(), "set_many gave {} results for {} keys", set.len(), keys.len());
        set.into_iter().try_for_each(|set| set.map_err(fault("set_many")))?;
        let leased = self.store.lease_many(&keys).await;
        ensure!(leased.len() == keys.len(), "lease_many gave {} results for {} keys", leased.len(), keys.len());
        self.store.wait().await.map_err(fault("wait"))?;
        let found = self.store.get_many(&keys).await;
        ensure!(found.len() == keys.len(), "get_many gave {} results for {} keys", found.len(), keys.len());
        for (at, (found, key)) in found.into_iter().zip(&keys).enumerate() {
            let found = found.map_err(fault("get_many"))?.and_then(Entry::into_value);
            ensure!(found == Some(at.to_string()), "key {at} gave {found:?} from get_many");
            let single = self.store.get(key).await.map_err(fault("get"))?.and_then(Entry::into_value);
            ensure!(single == found, "key {at} gave {single:?} from get");
        }
        let (gone, kept) = keys.split_at(7);
        let deleted = self.store.del_many(gone).await;
        ensure!(deleted.len() == gone.len(), "del_many gave {} results for {} keys", deleted.len(), gone.len());
        deleted.into_iter().try_for_each(|deleted| deleted.map_err(fault("del_many")))?;
        for (key, there) in gone.iter().map(|key| (key, false)).chain(kept.iter().map(|key| (key, true))) {
            let found = self.store.get(key).await.map_err(fault("get"))?;
            ensure!(found.is_some() == there, "after del_many of others, a key is there: {}", found.is_some());
        }
        Ok(())
    }

    async fn undecodable(&self) -> Verdict {
        self.put("k", "v").await?;
        if !self.harness.corrupt(&self.store, &key("k")).await {
            // A store that keeps values as they are has nothing to decode; it must give them back.
            return self.expect("k", Some("v"), "without a codec").await;
        }
        match self.store.get(&key("k")).await {
            Err(error) => ensure!(error.kind() == ErrorKind::Codec, "get gave {error:?} and no error of kind Codec"),
            Ok(found) => return Err(format!("get gave {found:?} for bytes that do not decode")),
        }
        self.put("k", "new").await?;
        self.expect("k", Some("new"), "after a set over bytes that do not decode").await?;
        self.harness.corrupt(&self.store, &key("k")).await;
        match self.store.take(&key("k")).await {
            Err(error) => ensure!(error.kind() == ErrorKind::Codec, "take gave {error:?} and no error of kind Codec"),
            Ok(found) => return Err(format!("take gave {found:?} for bytes that do not decode")),
        }
        self.expect("k", None, "after a take of bytes that do not decode").await
    }

    async fn no_panic(&self) -> Verdict {
        ensure!(self.store.get_many(&[]).await.is_empty(), "get_many of nothing gave something");
        ensure!(self.store.lease_many(&[]).await.is_empty(), "lease_many of nothing gave something");
        ensure!(self.store.fill_many(Vec::new()).await.is_empty(), "fill_many of nothing gave something");
        ensure!(self.store.set_many(Vec::new()).await.is_empty(), "set_many of nothing gave something");
        ensure!(self.store.del_many(&[]).await.is_empty(), "del_many of nothing gave something");
        let claims = self.store.claim_many_within(&[], Duration::from_secs(1)).await;
        ensure!(claims.is_empty(), "claim_many_within of nothing gave something");
        self.store.renew_claims(&[], Duration::from_secs(1)).await.map_err(fault("renew_claims of nothing"))?;
        self.put("empty value", "").await?;
        self.put("large value", &"v".repeat(1 << 20)).await?;
        for version in [0, 1, u64::MAX] {
            let foreign = Ticket::at(version);
            let _ = self.store.set(self.write("k", "v", Ttl::Never, foreign)).await;
            let _ = self.store.fill(self.write("k", "v", Ttl::Never, foreign)).await;
        }
        // Expired before it is written: the store may return any outcome or error.
        let past = Entry::new("v".to_owned(), Expiry::At(crate::Moment::from_nanos(0)));
        let ticket = Ticket::unconditional();
        let _ = self.store.set(Write::new(key("past"), past.clone(), ticket)).await;
        let _ = self.store.fill(Write::new(key("past"), past, ticket)).await;
        self.store.clear().await.map_err(fault("clear"))?;
        self.store.clear().await.map_err(fault("clear of an empty store"))
    }

    async fn cancel_safety(&self) -> Verdict {
        let store = &self.store;
        for polls in 0..4 {
            self.put("k", "old").await?;
            drop_after(polls, store.get(&key("k"))).await;
            drop_after(polls, store.get_many(&[key("k"), key("l")])).await;
            drop_after(polls, store.lease(&key("k"))).await;
            drop_after(polls, store.touch(&key("k"), Lifetime::new(Expiry::Never), self.clock.now())).await;
            drop_after(polls, store.wait()).await;
            self.expect("k", Some("old"), "after dropped reads").await?;

            let new = self.write("k", "new", Ttl::Never, Ticket::unconditional());
            drop_after(polls, store.set(new.clone())).await;
            let found = self.value("k").await?;
            ensure!(matches!(found.as_deref(), None | Some("old" | "new")), "after a dropped set, get gave {found:?}");
            drop_after(polls, store.fill(new.clone())).await;
            drop_after(polls, store.set_many(vec![new.clone()])).await;
            drop_after(polls, store.fill_many(vec![new])).await;
            self.put("k", "after").await?;
            self.expect("k", Some("after"), "after dropped writes and a finished one").await?;
            drop_after(polls, store.del(&key("k"))).await;
            drop_after(polls, store.clear()).await;
            self.put("k", "last").await?;
            self.expect("k", Some("last"), "after dropped removals and a finished set").await?;
            drop_after(polls, store.take(&key("k"))).await;
            self.put("k", "taken").await?;
            self.expect("k", Some("taken"), "after a dropped take and a finished set").await?;
        }
        Ok(())
    }

    async fn concurrent(&self) -> Verdict {
        let own = (0..32).map(|task| async move {
            let name = format!("k{task}");
            for round in 0..4 {
                let value = format!("{task}/{round}");
                self.put(&name, &value).await?;
                self.put("shared", &value).await?;
                self.expect(&name, Some(&value), "among concurrent writers of other keys").await?;
                let shared = self.value("shared").await?;
                let whole = shared.is_none_or(|value| value.split_once('/').is_some());
                ensure!(whole, "a concurrently written key gave a value that nobody wrote");
            }
            self.store.del(&key(&name)).await.map_err(fault("del"))?;
            let found = self.value(&name).await?;
            ensure!(found.is_none(), "after a del among concurrent writers, get gave {found:?}");
            Ok(())
        });
        join_all(own).await.into_iter().collect()
    }

    async fn clones(&self) -> Verdict {
        let clone = self.store.clone();
        self.put("k", "v").await?;
        let found = clone.get(&key("k")).await.map_err(fault("get"))?.and_then(Entry::into_value);
        ensure!(found.as_deref() == Some("v"), "the clone of a store gave {found:?}");
        clone.del(&key("k")).await.map_err(fault("del"))?;
        let found = self.value("k").await?;
        ensure!(found.is_none(), "after a del through a clone, get gave {found:?}");
        Ok(())
    }

    async fn dropping(self) -> Verdict {
        self.put("k", "v").await?;
        let (store, bound) = (self.store, self.harness.drop_bound());
        let (report, done) = mpsc::channel();
        let dropper = thread::spawn(move || {
            drop(store);
            let _ = report.send(());
        });
        ensure!(done.recv_timeout(bound).is_ok(), "dropping the store took longer than {bound:?}");
        dropper.join().map_err(|_| "dropping the store panicked".to_owned())
    }

    async fn secrets(&self) -> Verdict {
        let (value, validator) = ("a-value-that-is-nobody's-business", "a-secret-validator");
        let entry = Entry::new(value.to_owned(), Expiry::Never).with_validator(Some(validator.into()));
        let write = Write::new(key("k"), entry, Ticket::unconditional());
        self.store.set(write).await.map_err(fault("set"))?;
        let entry = self.store.get(&key("k")).await.map_err(fault("get"))?;
        let mut shown = format!("{:?} {:#?} {entry:?}", self.store, self.store);
        if self.harness.corrupt(&self.store, &key("k")).await {
            let error = self.store.get(&key("k")).await.err();
            shown = format!("{shown} {error:?} {}", error.as_ref().map(ToString::to_string).unwrap_or_default());
        }
        for secret in self.harness.secrets().into_iter().chain([value.to_owned(), validator.to_owned()]) {
            ensure!(!shown.contains(&secret), "it shows a secret: {shown}");
        }
        Ok(())
    }

    /// Voids the tickets of "k" in each way there is.
    async fn void(&self, way: usize) -> Verdict<&'static str> {
        let done = match way {
            0 => (self.put("k", "other").await, "set"),
            1 => (self.store.del(&key("k")).await.map_err(fault("del")), "del"),
            2 => (self.store.clear().await.map_err(fault("clear")), "clear"),
            3 => {
                let writes = vec![self.write("k", "other", Ttl::Never, Ticket::unconditional())];
                (self.store.set_many(writes).await.remove(0).map_err(fault("set_many")), "set_many")
            }
            _ => (self.store.del_many(&[key("k")]).await.remove(0).map_err(fault("del_many")), "del_many"),
        };
        done.0.map(|()| done.1)
    }

    async fn void_fill(&self) -> Verdict {
        // Backfills are leased where the key is absent.
        for (way, present) in (0..5).flat_map(|way| [(way, true), (way, false)]) {
            self.put("k", "old").await?;
            if !present {
                self.store.del(&key("k")).await.map_err(fault("del"))?;
            }
            let ticket = self.lease("k").await?;
            let batch = self.store.lease_many(&[key("k")]).await.remove(0).map_err(fault("lease_many"))?;
            let by = self.void(way).await?;
            let stale = |ticket| self.write("k", "stale", Ttl::Never, ticket);
            let single = self.store.fill(stale(ticket)).await.map_err(fault("fill"))?;
            let many = self.store.fill_many(vec![stale(batch)]).await.remove(0).map_err(fault("fill_many"))?;
            if !self.store.profile().leases {
                continue; // It says so, and a chain guards it.
            }
            ensure!(!single && !many, "a fill with a ticket from before a {by} was installed");
            let found = self.value("k").await?;
            ensure!(found.as_deref() != Some("stale"), "a fill refused after a {by} is there all the same");
        }
        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let ticket = self.lease("k").await?;
        let filled = self.store.fill(self.write("k", "fresh", Ttl::Never, ticket)).await.map_err(fault("fill"))?;
        ensure!(filled, "a fill with a good ticket was refused");
        self.expect("k", Some("fresh"), "after a fill").await?;
        if self.store.profile().leases {
            self.mixed_fills().await?;
            self.fill_disturbs_nobody().await?;
        }
        Ok(())
    }

    /// In a batch, each fill depends on its own ticket.
    async fn mixed_fills(&self) -> Verdict {
        let names = ["k", "l", "m"];
        for name in names {
            self.put(name, "old").await?;
        }
        let mut fills = Vec::new();
        for name in names {
            fills.push(self.write(name, "fill", Ttl::Never, self.lease(name).await?));
        }
        self.store.del(&key("l")).await.map_err(fault("del"))?;
        // Keys that share a stripe of a fence share their tickets' fate.
        let filled = self.store.fill_many(fills).await;
        ensure!(filled.len() == 3, "fill_many gave {} results for 3 entries", filled.len());
        ensure!(matches!(filled[1], Ok(false)), "of a batch, a fill with a void ticket gave {:?}", filled[1]);
        let found = self.value("l").await?;
        ensure!(found.is_none(), "of a batch, a fill with a void ticket is there: {found:?}");
        Ok(())
    }

    async fn fill_disturbs_nobody(&self) -> Verdict {
        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let (reader, writer) = (self.lease("k").await?, self.lease("k").await?);
        let fill = self.write("k", "fill", Ttl::Never, reader);
        ensure!(self.store.fill(fill).await.map_err(fault("fill"))?, "a fill with a good ticket was refused");
        self.store.set(self.write("k", "set", Ttl::Never, writer)).await.map_err(fault("set"))?;
        self.expect("k", Some("set"), "after a set whose ticket was as old as that of a fill before it").await
    }

    async fn void_set(&self) -> Verdict {
        for way in 0..5 {
            self.put("k", "old").await?;
            let ticket = self.lease("k").await?;
            let by = self.void(way).await?;
            let stale = || self.write("k", "stale", Ttl::Never, ticket);
            if way % 2 == 0 {
                self.store.set(stale()).await.map_err(fault("set"))?;
            } else {
                self.store.set_many(vec![stale()]).await.remove(0).map_err(fault("set_many"))?;
            }
            if !self.store.profile().leases {
                continue; // It says so, and a chain guards it.
            }
            let found = self.value("k").await?;
            ensure!(found.is_none(), "after a set with a ticket from before a {by}, get gave {found:?}");
        }
        let ticket = self.lease("k").await?;
        self.store.set(self.write("k", "fresh", Ttl::Never, ticket)).await.map_err(fault("set"))?;
        self.expect("k", Some("fresh"), "after a set with a good ticket").await?;

        // The writes of one batch do not void each other's tickets.
        let names: Vec<String> = (0..500).map(|at| format!("k{at}")).collect();
        let keys = Key::many(&names).map_err(fault("making a key"))?;
        let mut writes = Vec::new();
        for (name, ticket) in names.iter().zip(self.store.lease_many(&keys).await) {
            writes.push(self.write(name, name, Ttl::Never, ticket.map_err(fault("lease_many"))?));
        }
        let set = self.store.set_many(writes).await;
        set.into_iter().try_for_each(|set| set.map_err(fault("set_many")))?;
        self.store.wait().await.map_err(fault("wait"))?;
        for (name, found) in names.iter().zip(self.store.get_many(&keys).await) {
            let found = found.map_err(fault("get_many"))?.and_then(Entry::into_value);
            ensure!(found.as_ref() == Some(name), "after a set_many with good tickets, {name} is {found:?}");
        }
        Ok(())
    }

    async fn released(&self) -> Verdict {
        let release = async |ticket| {
            let leases = [(key("k"), ticket), (key("other"), ticket)];
            self.store.release_leases(&leases).await.map_err(fault("release_leases"))
        };
        // The key can be leased and filled as before.
        release(self.lease("k").await?).await?;
        let ticket = self.lease("k").await?;
        let filled = self.store.fill(self.write("k", "filled", Ttl::Never, ticket)).await.map_err(fault("fill"))?;
        ensure!(filled, "a fill was refused after another lease was given back");

        // The release removes neither an entry that was filled with the ticket nor a later one.
        release(ticket).await?;
        self.expect("k", Some("filled"), "after a lease was given back that has filled the key").await?;
        self.put("k", "written").await?;
        release(ticket).await?;
        self.expect("k", Some("written"), "after a lease from before a write was given back").await?;
        release(self.lease("k").await?).await?;
        self.expect("k", Some("written"), "after a lease of a key with a value was given back").await?;

        // Only its holder releases a claim, even if a lease has the same ticket.
        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let claim = self.claim("k").await?;
        release(claim.ticket).await?;
        release(self.lease("k").await?).await?;
        let fill = self.write("k", "claimed", Ttl::Never, claim.ticket);
        let filled = self.store.fill(fill).await.map_err(fault("fill"))?;
        ensure!(filled || !self.store.profile().claims, "a claim was given back together with the leases");
        Ok(())
    }

    fn values_that_call(&self) -> Verdict {
        let Some(store) = self.harness.reentrant() else {
            let is_local = self.store.local().is_some();
            ensure!(
                !is_local,
                "the store is local, but its harness has none for values that call it (Harness::reentrant)"
            );
            return Ok(());
        };
        let bound = self.harness.drop_bound();
        let (report, done) = mpsc::channel();
        // In a thread that can be given up, as it may hang.
        thread::spawn(move || report.send(replace_in_each_way(store)));
        match done.recv_timeout(bound) {
            Ok(replaced) => replaced.map_err(fault("replacing a value")),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("a value that calls the store in its Drop was not replaced within {bound:?}: a deadlock"))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err("replacing a value that calls the store in its Drop panicked".to_owned())
            }
        }
    }

    async fn facets(&self) -> Verdict {
        let now = self.clock.now();
        let at = |seconds| Expiry::after(now, Duration::from_secs(seconds).into());
        let load_time = Duration::from_millis(1500);
        let stale = Entry::new("v".to_owned(), at(100)).fresh_until(at(50)).created_at(now).loaded_in(load_time);
        let absent = Entry::absent(at(100)).fresh_until(at(50)).created_at(now);
        let longest = "\u{e4}".repeat(Entry::MAX_VALIDATOR / 2);
        let validated = |validator: &str| stale.clone().with_validator(Some(validator.into()));
        // Under one key, so that a validator of an earlier entry would be found.
        let entries = [
            ("stale", stale.clone()),
            ("absent", absent),
            ("validated", validated("\"v1\"")),
            ("validated", validated(&longest)),
            ("validated", stale.clone()),
        ];
        let (unconditional, resolution) = (Ticket::unconditional(), self.store.profile().ttl_resolution);
        for (name, entry) in entries {
            let lease = self.lease(name).await?;
            let fill = Write::new(key(name), entry.clone(), lease);
            self.store.fill(fill).await.map_err(fault("fill"))?;
            self.faceted(name, &entry, resolution).await?;
            let write = Write::new(key(name), entry.clone(), unconditional);
            self.store.set(write.clone()).await.map_err(fault("set"))?;
            self.faceted(name, &entry, resolution).await?;
            self.store.set_many(vec![write]).await.remove(0).map_err(fault("set_many"))?;
            self.faceted(name, &entry, resolution).await?;
        }
        Ok(())
    }

    /// If the store returns the entry, it returns all of it.
    async fn faceted(&self, name: &str, written: &Entry<String>, resolution: Duration) -> Verdict {
        self.store.wait().await.map_err(fault("wait"))?;
        let Some(found) = self.store.get(&key(name)).await.map_err(fault("get"))? else { return Ok(()) };
        ensure!(found.value() == written.value(), "{name}: the value became {:?}", found.value());
        let load_time = found.load_time();
        ensure!(load_time == written.load_time() || load_time.is_zero(), "{name}: the load time became {load_time:?}");
        let validator = found.validator();
        ensure!(
            validator.is_none() || validator == written.validator(),
            "{name}: the validator became {validator:?} instead of {:?}",
            written.validator()
        );
        let (now, slack) = (self.clock.now(), Duration::from_millis(1));
        let Ttl::After(fresh) = found.stale_at().remaining(now) else { return Err(format!("{name}: never stale")) };
        let Ttl::After(meant) = written.stale_at().remaining(now) else { return Err("no deadline".to_owned()) };
        ensure!(fresh <= meant + slack, "{name}: fresh for {fresh:?} instead of {meant:?}");
        // A real clock goes on, and a store may count a round trip against it.
        ensure!(fresh + resolution + Duration::from_secs(20) > meant, "{name}: fresh for {fresh:?}, not {meant:?}");
        let age = found.created().map(|created| now.since(created));
        let real = written.created().map_or(Duration::ZERO, |created| now.since(created));
        ensure!(
            age.is_none_or(|age| age + slack >= real && age <= real + resolution + slack),
            "{name}: it is {age:?} old instead of {real:?}"
        );
        Ok(())
    }
}
