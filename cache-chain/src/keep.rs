//! What becomes of what was loaded: how long it lives, and where it is stored.

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Expiry, Key, Moment, Result, Ttl};
use tokio::sync::oneshot;

use crate::{
    backfill::{self, Tickets},
    chain::Inner,
    leases::Leases,
    loaded::{Keep, Loaded},
    random,
};

/// How long a load waits until it is stored, where no tier is local.
const FILLING: Duration = Duration::from_millis(50);

/// How long what takes the place of a withdrawn entry lives. No read serves it, so the time only has to be long enough for it
/// to be written.
const WITHDRAWN: Duration = Duration::from_secs(1);

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    /// Fills the tiers with what was loaded, if it is to be kept; whether it is stored, or on its way. `replaces` says whether a
    /// tier may have an older entry, which must not outlive a load that is not to be kept.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        key: &Key,
        brought: Result<Loaded<V>>,
        load_time: Duration,
        mut tickets: Leases,
        replaces: bool,
    ) -> Result<(Entry<V>, bool)> {
        let now = self.clock.now();
        let (value, ttl, is_kept) = match brought.and_then(|loaded| self.life_of(loaded)) {
            Ok(good) => good,
            Err(error) => {
                self.pauses.begin(key, now, self.read_through.failure_pause);
                return Err(error);
            }
        };
        self.pauses.end(key);
        let (expiry, fresh_until) = self.life(ttl, now);
        let entry = match value {
            Some(value) => Entry::new(value, expiry).fresh_until(fresh_until),
            // That there is nothing is not worth serving past its time.
            None => Entry::absent(if fresh_until == Expiry::Never { expiry } else { fresh_until }),
        };
        let entry = entry.created_at(now).loaded_in(load_time);
        if !is_kept {
            if replaces {
                self.withdraw(key, tickets.take()).await;
            }
            return Ok((entry, false));
        }
        let job = self.job(key.clone(), entry.clone(), tickets.take(), self.tiers.len());
        let is_stored = self.fill(job).await;
        Ok((entry, is_stored))
    }

    /// Removes the entry of the key from every tier where nothing was written since the ticket.
    ///
    /// A store has no such removal, but a fill is made on the same condition. So the entry's place is taken by one that is absent
    /// and stale, which no read serves, and which expires soon.
    async fn withdraw(self: &Arc<Self>, key: &Key, tickets: Tickets) {
        let mut remote = Tickets::new();
        for (at, ticket) in tickets {
            match self.tiers[at].local() {
                Some(local) => drop(local.fence().fill(key, ticket, || local.remove(key))),
                None => remote.push((at, ticket)),
            }
        }
        if remote.is_empty() {
            return;
        }
        let now = self.clock.now();
        let stale = Entry::absent(Expiry::after(now, WITHDRAWN.into())).fresh_until(Expiry::At(now)).created_at(now);
        self.fill(self.job(key.clone(), stale, remote, self.tiers.len())).await;
    }

    /// How long what was loaded lives, and whether it is kept at all.
    fn life_of(&self, Loaded { value, keep }: Loaded<V>) -> Result<(Option<V>, Ttl, bool)> {
        let ttl = match keep {
            Keep::For(Ttl::After(ttl)) => Ttl::checked(ttl)?,
            Keep::Usually if value.is_none() => self.read_through.ttl_of_absence(self.default_ttl),
            Keep::Usually | Keep::For(Ttl::Never) | Keep::Not => Ttl::Never,
        };
        Ok((value, ttl, keep != Keep::Not))
    }

    /// Local tiers are filled at once, so that who comes after this flight finds it there. The others are filled through the
    /// queue, for nobody is to wait for them; but if there are only such, who comes next should find it in one, so they are
    /// waited for a little. Whether it is stored, or on its way.
    async fn fill(self: &Arc<Self>, mut job: backfill::Job<V>) -> bool {
        let is_local = |at: usize| self.tiers[at].local().is_some();
        let (local, remote): (Tickets, Tickets) = job.tickets.iter().copied().partition(|(at, _)| is_local(*at));
        if local.is_empty() {
            let (inner, (done, filled)) = (Arc::clone(self), oneshot::channel());
            self.ground.spawn(async move {
                backfill::apply(vec![job], &inner.tiers, &inner.clock, inner.queue.counters()).await;
                // Nobody may wait any more.
                let _ = done.send(());
            });
            let _ = tokio::time::timeout(FILLING, filled).await;
            return true;
        }
        let now = backfill::Job { key: job.key.clone(), entry: job.entry.clone(), tickets: local, ..job };
        backfill::apply(vec![now], &self.tiers, &self.clock, self.queue.counters()).await;
        job.tickets = remote;
        job.tickets.is_empty() || self.queue.push(job)
    }

    /// When something with this TTL expires, and when it turns stale.
    pub(crate) fn life(&self, ttl: Ttl, now: Moment) -> (Expiry, Expiry) {
        let ttl = if ttl == Ttl::Never { self.default_ttl } else { ttl };
        let Ttl::After(ttl) = ttl else { return (Expiry::Never, Expiry::Never) };
        // Taken off, not multiplied: it must not lengthen by rounding.
        let off = if self.jitter > 0.0 {
            ttl.min(cache_core::MAX_TTL).mul_f64(self.jitter * random::unit())
        } else {
            Duration::ZERO
        };
        let ttl = ttl.saturating_sub(off).max(Duration::from_nanos(1));
        let stale_for = self.read_through.stale_for;
        if stale_for.is_zero() {
            return (Expiry::after(now, ttl.into()), Expiry::Never);
        }
        (Expiry::after(now, ttl.saturating_add(stale_for).into()), Expiry::after(now, ttl.into()))
    }
}
