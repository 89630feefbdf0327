//! Clause S24: `touch`.

use std::{pin::Pin, time::Duration};

use super::{Harness, Test, Verdict, fault, key};
use crate::{Entry, Expiry, Lifetime, Moment, Store as _, Ticket, Ttl, Write, testkit::join_all};

/// The time that the suite may take on a slow machine.
const SLACK: Duration = Duration::from_secs(20);

impl<H: Harness> Test<'_, H> {
    async fn touch(&self, name: &str, lifetime: Lifetime) -> Verdict<bool> {
        self.store.touch(&key(name), lifetime, self.clock.now()).await.map_err(fault("touch"))
    }

    async fn entry_of(&self, name: &str) -> Verdict<Option<Entry<String>>> {
        self.store.get(&key(name)).await.map_err(fault("get"))
    }

    pub(super) async fn touches(&self) -> Verdict {
        let now = self.clock.now();
        let at = |seconds| Expiry::after(now, Duration::from_secs(seconds).into());
        for (name, old, new) in [
            ("longer", at(100), Lifetime::new(at(1000))),
            ("shorter", at(1000), Lifetime::new(at(100))),
            ("for ever", at(100), Lifetime::new(Expiry::Never)),
            ("no longer for ever", Expiry::Never, Lifetime::new(at(100))),
            ("stale later", at(100), Lifetime::new(at(1000)).fresh_until(at(200))),
        ] {
            self.touched(name, old, new, now).await?;
        }
        self.touches_what_is_fresh(now, at(1000)).await?;
        self.touch_voids_nothing(Lifetime::new(at(1000))).await?;
        self.touch_revives_nothing(Lifetime::new(at(1000))).await
    }

    /// Touches an entry that expires at `old`, and checks what it has become.
    async fn touched(&self, name: &str, old: Expiry, new: Lifetime, now: Moment) -> Verdict {
        let load_time = Duration::from_millis(1500);
        let entry = Entry::new("v".to_owned(), old).created_at(now).loaded_in(load_time);
        let write = Write::new(key(name), entry, Ticket::unconditional());
        self.store.set(write).await.map_err(fault("set"))?;
        self.store.wait().await.map_err(fault("wait"))?;
        // So that the entry has an age.
        self.harness.pass(Duration::from_millis(20)).await;
        let there = self.entry_of(name).await?.is_some();
        let touched = self.touch(name, new).await?;
        ensure!(touched == there, "{name}: touch gave {touched}, and an entry was there: {there}");
        let Some(found) = self.entry_of(name).await? else {
            ensure!(!self.store.profile().retains, "{name}: the entry is gone after a touch");
            return Ok(());
        };
        ensure!(found.value().is_some_and(|value| value == "v"), "{name}: touch changed the value");
        let (later, resolution) = (self.clock.now(), self.store.profile().ttl_resolution);
        let most = |meant: Expiry| match meant.remaining(later) {
            Ttl::Never => Ttl::Never,
            Ttl::After(left) => Ttl::After(left + resolution),
        };
        let left = found.remaining(later);
        ensure!(left <= most(new.expiry), "{name}: it expires after {left:?} instead of {:?}", most(new.expiry));
        let (fresh, meant) = (found.stale_at().remaining(later), most(new.fresh_until.min(new.expiry)));
        let least = meant.as_duration().map_or(Ttl::Never, |left| left.saturating_sub(2 * resolution + SLACK).into());
        ensure!(fresh <= meant && fresh >= least, "{name}: it turns stale after {fresh:?} instead of {meant:?}");

        let load = found.load_time();
        ensure!(load == load_time || load.is_zero(), "{name}: the load time became {load:?}");
        let (age, real) = (found.created().map(|created| later.since(created)), later.since(now));
        let slack = Duration::from_millis(2);
        ensure!(
            age.is_none_or(|age| age + slack >= real && age <= real + 2 * resolution + slack),
            "{name}: it is {age:?} old instead of {real:?}"
        );
        Ok(())
    }

    /// Nothing changes where there is no fresh entry, and by a lifetime that has ended.
    async fn touches_what_is_fresh(&self, now: Moment, end: Expiry) -> Verdict {
        let longer = Lifetime::new(Expiry::Never);
        self.put("gone", "v").await?;
        self.store.del(&key("gone")).await.map_err(fault("del"))?;
        ensure!(!self.touch("gone", longer).await?, "a key without an entry was touched");
        let found = self.entry_of("gone").await?;
        ensure!(found.is_none(), "after a touch of a key without an entry, get gave {found:?}");

        let stale = Entry::new("v".to_owned(), end).fresh_until(Expiry::At(now));
        for (name, entry) in [("stale", stale), ("absent", Entry::absent(end))] {
            let write = Write::new(key(name), entry, Ticket::unconditional());
            self.store.set(write).await.map_err(fault("set"))?;
            let is_fresh = |entry: &Entry<String>| !entry.is_absent() && !entry.is_stale(self.clock.now());
            if self.entry_of(name).await?.as_ref().is_some_and(is_fresh) {
                continue; // S20 tells of that.
            }
            ensure!(!self.touch(name, longer).await?, "an entry that is {name} was touched");
            let found = self.entry_of(name).await?;
            let changed = found.as_ref().is_some_and(|entry| is_fresh(entry) || entry.expiry() == Expiry::Never);
            ensure!(!changed, "after a touch of an entry that is {name}, get gave {found:?}");
        }

        self.put("ended", "v").await?;
        ensure!(!self.touch("ended", Lifetime::new(Expiry::At(now))).await?, "a lifetime that has ended was given");
        // By the moment that the caller gives, and not by the store's own.
        let later = now.plus(Duration::from_secs(2000));
        let touched = self.store.touch(&key("ended"), Lifetime::new(end), later).await.map_err(fault("touch"))?;
        ensure!(!touched, "a lifetime that has ended at the moment of the touch was given");
        let found = self.entry_of("ended").await?;
        let changed = found.as_ref().is_some_and(|entry| entry.expiry() != Expiry::Never);
        ensure!(!changed, "a touch with a lifetime that has ended has shortened the life of an entry");
        ensure!(found.is_some() || !self.store.profile().retains, "a touch has removed an entry");
        Ok(())
    }

    async fn touch_voids_nothing(&self, lifetime: Lifetime) -> Verdict {
        self.put("k", "old").await?;
        let ticket = self.lease("k").await?;
        self.touch("k", lifetime).await?;
        let filled = self.store.fill(self.write("k", "new", Ttl::Never, ticket)).await.map_err(fault("fill"))?;
        ensure!(filled, "a fill with a ticket from before a touch was refused");
        Ok(())
    }

    async fn touch_revives_nothing(&self, lifetime: Lifetime) -> Verdict {
        if !self.store.profile().leases {
            return Ok(()); // It says so, and a chain guards it.
        }
        for round in 0..20 {
            let removes = round % 2 == 0;
            self.put("k", "old").await?;
            let touch: Pin<Box<dyn Future<Output = Verdict> + Send + '_>> =
                Box::pin(async { self.touch("k", lifetime).await.map(drop) });
            let write: Pin<Box<dyn Future<Output = Verdict> + Send + '_>> = if removes {
                Box::pin(async { self.store.del(&key("k")).await.map_err(fault("del")) })
            } else {
                Box::pin(self.put("k", "new"))
            };
            join_all([touch, write]).await.into_iter().collect::<Verdict>()?;
            let found = self.value("k").await?;
            ensure!(found.as_deref() != Some("old"), "a touch has brought back an entry that was replaced or removed");
            ensure!(found.is_none() || !removes, "after a touch and a del, get gave {found:?}");
        }
        Ok(())
    }
}
