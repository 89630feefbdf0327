//! Clauses S2, S3 and S7: TTLs and deadlines.

use std::time::Duration;

use super::{Harness, Test, Verdict, key};
use crate::{MAX_TTL, Store as _, Ttl};

impl<H: Harness> Test<'_, H> {
    pub(super) async fn expired(&self) -> Verdict {
        self.set("k", "v", Duration::from_millis(200).into()).await?;
        self.put("other", "v").await?;
        self.harness.pass(Duration::from_millis(250)).await;
        self.expect("k", None, "after its deadline").await?;
        self.expect("other", Some("v"), "without a deadline").await?;
        let many = self.store.get_many(&[key("k")]).await;
        ensure!(matches!(many[..], [Ok(None)]), "get_many gave an expired entry");
        Ok(())
    }

    pub(super) async fn remaining(&self) -> Verdict {
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

    pub(super) async fn positive_ttl(&self) -> Verdict {
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
}
