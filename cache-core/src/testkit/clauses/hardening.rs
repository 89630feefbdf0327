//! Clauses S10 to S13, S15, S16 and S22: undecodable bytes, edge cases, dropped calls, threads,
//! secrets, and values that call the store.

use std::{sync::mpsc, thread, time::Duration};

use super::{Harness, Test, Verdict, fault, key};
use crate::{
    Entry, ErrorKind, Expiry, Lifetime, Store as _, Ticket, Ttl, Write,
    testkit::{drop_after, join_all, reentrant::replace_in_each_way},
};

impl<H: Harness> Test<'_, H> {
    pub(super) async fn undecodable(&self) -> Verdict {
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

    pub(super) async fn no_panic(&self) -> Verdict {
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

    pub(super) async fn cancel_safety(&self) -> Verdict {
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

    pub(super) async fn concurrent(&self) -> Verdict {
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

    pub(super) async fn dropping(self) -> Verdict {
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

    pub(super) async fn secrets(&self) -> Verdict {
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

    pub(super) fn values_that_call(&self) -> Verdict {
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
}
