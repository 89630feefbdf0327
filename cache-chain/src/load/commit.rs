//! The commit of a load: how long the loaded entry lives, and where it is stored.

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Expiry, Key, Moment, Result, Ttl};
use tokio::sync::oneshot;

use super::{
    Loader,
    loaded::{CachePolicy, Loaded},
};
use crate::{
    backfill::{Backfill, Tickets},
    lifetime::Lifetime,
    read::Leases,
};

/// How long a load waits until its entry is stored, if no tier is local.
const FILL_WAIT: Duration = Duration::from_millis(50);

/// How long the replacement of a withdrawn entry lives. No read serves it, so the time need only
/// suffice to write it.
const WITHDRAWN_TTL: Duration = Duration::from_secs(1);

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Fills the tiers with a loaded entry, if it is cached. Returns the entry, and whether it is
    /// stored or queued to be. `replaces` says whether a tier may have an older entry, which must
    /// not outlive a load that is not cached.
    pub(super) async fn commit(
        &self,
        key: &Key,
        loaded: Result<Loaded<V>>,
        load_time: Duration,
        mut leases: Leases,
        replaces: bool,
    ) -> Result<(Entry<V>, bool)> {
        let now = self.reader.clock.now();
        let (entry, is_cached) = match loaded.and_then(|loaded| self.entry(loaded, now)) {
            Ok(good) => good,
            Err(error) => {
                if let Some(cooldown) = self.settings.failure_cooldown {
                    self.cooldowns.begin(key, now, cooldown);
                }
                return Err(error);
            }
        };
        self.cooldowns.end(key);
        let entry = entry.created_at(now).loaded_in(load_time);
        if !is_cached {
            if replaces {
                self.withdraw(key, leases.take()).await;
            }
            return Ok((entry, false));
        }
        let is_stored = self.fill(self.backfill(key, entry.clone(), leases.take())).await;
        Ok((entry, is_stored))
    }

    /// The entry of what was loaded, and whether it is cached.
    fn entry(&self, Loaded { value, policy }: Loaded<V>, now: Moment) -> Result<(Entry<V>, bool)> {
        let ttl = match policy {
            CachePolicy::Ttl(ttl) => Ttl::checked(ttl)?,
            CachePolicy::Default | CachePolicy::Uncached => Ttl::Never,
        };
        let is_cached = policy != CachePolicy::Uncached;
        let Some(value) = value else {
            let expiry = self.lifetimes.of_absence(ttl, now);
            return Ok((Entry::absent(expiry.unwrap_or(Expiry::Never)), is_cached && expiry.is_some()));
        };
        let Lifetime { fresh_until, expiry } = self.lifetimes.of_value(ttl, now);
        Ok((Entry::new(value, expiry).fresh_until(fresh_until), is_cached))
    }

    fn backfill(&self, key: &Key, entry: Entry<V>, tickets: Tickets) -> Backfill<V> {
        Backfill { key: key.clone(), entry, tickets, found_in: self.reader.tiers.len() }
    }

    /// Removes the entry of the key from every tier in which it was not written since the ticket.
    ///
    /// Stores have no such removal, but a fill is made on the same condition. So the entry is
    /// replaced by one that is absent and stale, which no read serves and which expires soon.
    async fn withdraw(&self, key: &Key, tickets: Tickets) {
        let mut remote = Tickets::new();
        for (place, ticket) in tickets {
            match self.reader.tiers[place].local() {
                Some(local) => drop(local.fence().fill(key, ticket, || local.remove(key))),
                None => remote.push((place, ticket)),
            }
        }
        if remote.is_empty() {
            return;
        }
        let now = self.reader.clock.now();
        let expiry = Expiry::after(now, WITHDRAWN_TTL.into());
        let stale = Entry::absent(expiry).fresh_until(Expiry::At(now)).created_at(now);
        self.fill(self.backfill(key, stale, remote)).await;
    }

    /// Fills an entry into the tiers. Returns whether it is stored or queued to be.
    ///
    /// Local tiers are filled at once, so that later callers find the entry there. The others are
    /// filled through the queue, so that no caller waits for them. If no tier is local, the load
    /// waits a little for them.
    async fn fill(&self, mut backfill: Backfill<V>) -> bool {
        let reader = &self.reader;
        let is_local = |(place, _): &(usize, _)| reader.tiers[*place].is_local();
        let (local, remote): (Tickets, Tickets) = backfill.tickets.iter().copied().partition(is_local);
        if local.is_empty() {
            let (reader, (done, filled)) = (Arc::clone(reader), oneshot::channel());
            self.reader.runtime.spawn(async move {
                reader.backfills.apply(backfill).await;
                // The load may have stopped waiting.
                let _ = done.send(());
            });
            let _ = tokio::time::timeout(FILL_WAIT, filled).await;
            return true;
        }
        let (key, entry) = (backfill.key.clone(), backfill.entry.clone());
        reader.backfills.apply(Backfill { key, entry, tickets: local, found_in: backfill.found_in }).await;
        backfill.tickets = remote;
        backfill.tickets.is_empty() || reader.backfills.enqueue(backfill)
    }
}
