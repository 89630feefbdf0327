//! Clause S23: `take`.

use std::{thread, time::Duration};

use super::{Harness, Test, Verdict, fault, key};
use crate::{
    Entry, Expiry, Store as _, Ticket, Ttl, Write,
    testkit::{block_on, join_all},
};

impl<H: Harness> Test<'_, H> {
    async fn take(&self, name: &str) -> Verdict<Option<Entry<String>>> {
        self.store.take(&key(name)).await.map_err(fault("take"))
    }

    pub(super) async fn takes(&self) -> Verdict {
        let none = self.take("never written").await?;
        ensure!(none.is_none(), "take gave {none:?} for a key never written");
        self.takes_what_is_there().await?;
        self.take_voids().await?;
        self.takes_once().await
    }

    async fn takes_what_is_there(&self) -> Verdict {
        let (ttl, resolution) = (Duration::from_secs(100), self.store.profile().ttl_resolution);
        let now = self.clock.now();
        let at = |after| Expiry::after(now, Ttl::After(after));
        let fresh = Entry::new("v".to_owned(), at(ttl));
        let entries = [
            ("fresh", fresh.clone()),
            ("stale", fresh.fresh_until(Expiry::At(now))),
            ("absent", Entry::absent(at(ttl))),
            ("never", Entry::new("v".to_owned(), Expiry::Never)),
        ];
        for (name, entry) in entries {
            let write = Write::new(key(name), entry.clone(), Ticket::unconditional());
            self.store.set(write).await.map_err(fault("set"))?;
            let found = self.store.get(&key(name)).await.map_err(fault("get"))?;
            let taken = self.take(name).await?;
            ensure!(
                found.as_ref().map(Entry::value) == taken.as_ref().map(Entry::value),
                "{name}: take gave {taken:?} instead of {found:?}"
            );
            if let Some(taken) = taken {
                let (left, meant) = (taken.remaining(self.clock.now()), entry.remaining(now));
                let most = meant.as_duration().map_or(Ttl::Never, |meant| Ttl::After(meant + resolution));
                ensure!(left <= most && left >= Ttl::After(ttl / 2), "{name}: taken with {left:?} left of {meant:?}");
            }
            let found = self.store.get(&key(name)).await.map_err(fault("get"))?;
            ensure!(found.is_none(), "{name}: after a take, get gave {found:?}");
            let again = self.take(name).await?;
            ensure!(again.is_none(), "{name}: a second take gave {again:?}");
        }
        Ok(())
    }

    async fn take_voids(&self) -> Verdict {
        let profile = self.store.profile();
        for present in [true, false] {
            // S17 and S18 test either with a void ticket.
            let mut ignored = 0;
            for fills in [true, false] {
                self.put("k", "old").await?;
                if !present {
                    self.store.del(&key("k")).await.map_err(fault("del"))?;
                }
                let write = self.write("k", "late", Ttl::Never, self.lease("k").await?);
                let taken = self.take("k").await?;
                ensure!(taken.is_some() == present || !profile.retains, "take gave {taken:?}");
                if fills {
                    self.store.fill(write).await.map_err(fault("fill"))?;
                } else {
                    self.store.set(write).await.map_err(fault("set"))?;
                }
                ignored += u32::from(self.value("k").await?.as_deref() == Some("late"));
            }
            ensure!(ignored < 2 || !profile.leases, "a ticket from before a take was good (present: {present})");
        }
        if profile.claims {
            self.claim("claimed").await?;
            let taken = self.take("claimed").await?;
            ensure!(taken.is_none(), "take of a claimed key gave {taken:?}");
            ensure!(self.claim("claimed").await?.granted, "a claim from before a take refused another");
        }
        Ok(())
    }

    async fn takes_once(&self) -> Verdict {
        let own = key("k");
        for round in 0..20 {
            let value = round.to_string();
            self.put("k", &value).await?;
            let there = self.value("k").await?.is_some();
            let takes = (0..8).map(|_| self.store.take(&own));
            self.taken_once(&value, there, join_all(takes).await).await?;
        }
        // A local store answers at once, so only threads call it concurrently.
        let Some(store) = self.store.local().is_some().then_some(&self.store) else { return Ok(()) };
        for round in 0..200 {
            let value = round.to_string();
            self.put("k", &value).await?;
            let there = self.value("k").await?.is_some();
            let taken = thread::scope(|scope| {
                let takers = [(); 4].map(|()| scope.spawn(|| block_on(store.take(&own))));
                takers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Result<Vec<_>, _>>()
            });
            self.taken_once(&value, there, taken.map_err(|_| "take panicked")?).await?;
        }
        Ok(())
    }

    /// Checks what concurrent takes of a key with this value gave; `there` tells whether a read
    /// found it before.
    async fn taken_once(&self, value: &str, there: bool, taken: Vec<crate::Result<Option<Entry<String>>>>) -> Verdict {
        let profile = self.store.profile();
        let mut count = 0;
        for taken in taken {
            let Some(taken) = taken.map_err(fault("take"))? else { continue };
            ensure!(taken.value().is_some_and(|taken| taken == value), "a concurrent take gave another value");
            count += 1;
        }
        ensure!(count >= 1 || !there || !profile.retains, "none of several concurrent takes gave the entry");
        ensure!(count <= 1 || !profile.takes_once, "of several concurrent takes, {count} gave the same entry");
        let found = self.value("k").await?;
        ensure!(found.is_none(), "after concurrent takes, get gave {found:?}");
        Ok(())
    }
}
