//! Clause S19: claims.

use std::time::Duration;

use super::{Harness, Test, Verdict, fault, key};
use crate::{Claim, Store as _, Ticket, Ttl};

/// The life of a claim that runs out in the test. It is long beside a few calls.
const SHORT: Duration = Duration::from_secs(2);

/// A longer life than that.
const LONG: Duration = Duration::from_secs(60);

impl<H: Harness> Test<'_, H> {
    pub(super) async fn claim(&self, name: &str) -> Verdict<Claim> {
        self.store.claim(&key(name)).await.map_err(fault("claim"))
    }

    pub(super) async fn claims(&self) -> Verdict {
        let fill = |claim: Claim| self.store.fill(self.write("k", "loaded", Ttl::Never, claim.ticket));
        let first = self.claim("k").await?;
        ensure!(first.granted, "the first claim of an absent key was refused");
        let second = self.claim("k").await?;
        ensure!(second.granted != self.store.profile().claims, "a second claim: granted is {}", second.granted);
        ensure!(fill(second).await.map_err(fault("fill"))?, "a fill with the ticket of a second claim was refused");
        ensure!(fill(first).await.map_err(fault("fill"))?, "a fill with the ticket of the first claim was refused");
        self.store.release(&key("k"), first.ticket).await.map_err(fault("release"))?;
        self.expect("k", Some("loaded"), "after a release that came after a fill").await?;

        self.store.del(&key("k")).await.map_err(fault("del"))?;
        let reader = self.lease("k").await?;
        let claim = self.claim("k").await?;
        ensure!(claim.granted, "a claim was refused for a plain lease, or for one from before a del");
        let _ = reader;
        self.store.release(&key("k"), claim.ticket).await.map_err(fault("release"))?;
        let again = self.claim("k").await?;
        ensure!(again.granted, "a claim was refused after the one before was released");
        ensure!(fill(claim).await.is_ok(), "a fill after its claim's release failed");
        self.lives_of_claims().await
    }

    async fn renew(&self, name: &str, ticket: Ticket, life: Duration) -> Verdict {
        self.store.renew_claims(&[(key(name), ticket)], life).await.map_err(fault("renew_claims"))
    }

    /// A claim that is renewed lives for longer than it was taken for, and no other claim does.
    async fn lives_of_claims(&self) -> Verdict {
        let keeps = self.store.profile().claims;
        let names = ["renewed", "as well", "short", "twice"];
        let keys = names.map(key);
        let claims = self.store.claim_many_within(&keys, SHORT).await;
        ensure!(claims.len() == keys.len(), "claim_many_within gave {} results for {} keys", claims.len(), keys.len());
        let mut tickets = Vec::new();
        for claim in claims {
            let claim = claim.map_err(fault("claim_many_within"))?;
            ensure!(claim.granted, "of a batch, the claim of an absent key was refused");
            tickets.push(claim.ticket);
        }
        let [renewed, as_well, short, twice] = tickets[..] else { return Err("no tickets".to_owned()) };
        let both = [(key("renewed"), renewed), (key("as well"), as_well)];
        self.store.renew_claims(&both, LONG).await.map_err(fault("renew_claims"))?;
        // The last renewal counts.
        self.renew("twice", twice, LONG).await?;
        self.renew("twice", twice, SHORT).await?;
        for claim in self.store.claim_many_within(&keys, SHORT).await {
            let granted = claim.map_err(fault("claim_many_within"))?.granted;
            ensure!(granted != keeps, "another claim of a claimed key in a batch: granted is {granted}");
        }
        self.harness.pass(SHORT + Duration::from_millis(200)).await;
        for name in ["renewed", "as well"] {
            let granted = self.claim(name).await?.granted;
            ensure!(granted != keeps, "after the first life of a renewed claim, another: granted is {granted}");
        }
        self.renew("short", short, LONG).await?;
        for name in ["short", "twice"] {
            ensure!(self.claim(name).await?.granted, "{name}: a claim was refused after the life of the one before");
        }

        // Neither a release nor a write is undone.
        self.store.release(&key("renewed"), renewed).await.map_err(fault("release"))?;
        self.renew("renewed", renewed, LONG).await?;
        let claim = self.claim("renewed").await?;
        ensure!(claim.granted, "a claim was refused after the one before was released and renewed");
        let fill = self.write("renewed", "loaded", Ttl::Never, claim.ticket);
        ensure!(self.store.fill(fill).await.map_err(fault("fill"))?, "a fill with the ticket of a claim was refused");
        self.renew("renewed", claim.ticket, Duration::from_millis(1)).await?;
        self.harness.pass(Duration::from_millis(20)).await;
        self.expect("renewed", Some("loaded"), "after a renewal of a claim that has filled the key").await
    }
}
