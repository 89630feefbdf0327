//! Clause S20: what an entry says besides its value.

use std::time::Duration;

use super::{Harness, Test, Verdict, fault, key};
use crate::{Entry, Expiry, Store as _, Ticket, Ttl, Write, backend::ETag};

impl<H: Harness> Test<'_, H> {
    pub(super) async fn facets(&self) -> Verdict {
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
        if self.store.local().is_some() {
            // A chain compares them on each hit.
            let etag = ETag::new(b"version", true);
            let stamped = stale.clone().stamped(7).with_etag(Some(etag));
            self.store.set(Write::new(key("stamped"), stamped, Ticket::unconditional())).await.map_err(fault("set"))?;
            self.store.wait().await.map_err(fault("wait"))?;
            if let Some(found) = self.store.get(&key("stamped")).await.map_err(fault("get"))? {
                ensure!((found.stamp(), found.etag()) == (7, Some(etag)), "the stamp or the version was lost");
            }
        }
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
