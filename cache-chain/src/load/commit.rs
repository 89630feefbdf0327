//! The commit of a load: how long the loaded entry lives, and where it is stored.

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Error, ErrorKind, Expiry, Key, Lifetime, Moment, Result, Ttl, Write};
use tokio::sync::oneshot;

use super::{
    Loader,
    claim::ClaimGuard,
    loaded::{CachePolicy, Loaded, News},
};
use crate::{
    backfill::{Backfill, Tickets},
    coherence::Draw,
    read::{Leases, Reader},
};

/// How long a load waits until its entry is stored, if no tier is local.
const FILL_WAIT: Duration = Duration::from_millis(50);

/// How long the replacement of a withdrawn entry lives. No read serves it, so the time need only
/// suffice to write it.
const WITHDRAWN_TTL: Duration = Duration::from_secs(1);

/// The circumstances of a commit.
pub(super) struct Commit<'a, V: Clone + Send + Sync + 'static> {
    key: &'a Key,
    load_time: Duration,
    leases: Leases,
    /// The entry that the tiers had before, as far as known. It must not outlive a load that is not
    /// cached.
    old: Option<Entry<V>>,
    /// The TTL that the caller has set, `Never` if none.
    ttl: Ttl,
    /// `true` if the tiers are written as by a `set`.
    is_reload: bool,
    claim: Option<ClaimGuard<V>>,
}

impl<'a, V: Clone + Send + Sync + 'static> Commit<'a, V> {
    pub(super) fn new(key: &'a Key, load_time: Duration, leases: Leases, old: Option<Entry<V>>, ttl: Ttl) -> Self {
        Self { key, load_time, leases, old, ttl, is_reload: false, claim: None }
    }

    pub(super) fn reload(mut self, is_reload: bool) -> Self {
        self.is_reload = is_reload;
        self
    }

    pub(super) fn claimed(mut self, claim: Option<ClaimGuard<V>>) -> Self {
        self.claim = claim;
        self
    }
}

impl<V: Clone + Send + Sync + 'static> Loader<V> {
    /// Stores a loaded entry in the tiers, if it is cached. Returns the entry.
    pub(super) async fn commit(&self, loaded: Result<Loaded<V>>, commit: Commit<'_, V>) -> Result<Entry<V>> {
        let Commit { key, load_time, mut leases, old, ttl, is_reload, claim } = commit;
        let now = self.reader.clock.now();
        let replaces = old.is_some();
        let (entry, is_cached) = match loaded.and_then(|loaded| self.entry(loaded, old, ttl, now)) {
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
        let (draw, tickets) = (leases.draw(), leases.take());
        if is_reload {
            self.replace(key, is_cached.then(|| entry.clone()), tickets).await;
        } else if !is_cached && replaces {
            self.withdraw(key, tickets).await;
        } else if is_cached {
            self.fill_claimed(self.backfill(key, entry.clone(), tickets, draw), claim, replaces).await;
        }
        Ok(entry)
    }

    /// Fills an entry into the tiers, and ends the claim of its load.
    async fn fill_claimed(&self, mut backfill: Backfill<V>, claim: Option<ClaimGuard<V>>, replaces: bool) {
        let Some(claim) = claim else {
            self.fill(backfill).await;
            return;
        };
        if replaces {
            // The claim is a marker of its own. It is returned when the entry has been filled;
            // before, a peer would not find the entry, and load again.
            backfill.held = Some(Box::new(claim));
            self.fill(backfill).await;
        } else if self.fill(backfill).await {
            claim.fulfil();
        }
    }

    /// The entry of what was loaded, and whether it is cached.
    fn entry(
        &self,
        Loaded { news, policy, validator }: Loaded<V>,
        old: Option<Entry<V>>,
        ttl: Ttl,
        now: Moment,
    ) -> Result<(Entry<V>, bool)> {
        let ttl = match policy {
            CachePolicy::Ttl(ttl) => Ttl::checked(ttl)?,
            CachePolicy::Default | CachePolicy::Uncached => ttl,
        };
        let is_cached = policy != CachePolicy::Uncached;
        if validator.as_ref().is_some_and(|validator| !(1..=Entry::MAX_VALIDATOR).contains(&validator.len())) {
            let message = format!("the validator of a loaded value must have 1 to {} bytes", Entry::MAX_VALIDATOR);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let (value, validator) = match news {
            News::Value(value) => (value, validator),
            News::Absent => {
                let expiry =
                    self.lifetimes.of_absence(if policy == CachePolicy::Default { Ttl::Never } else { ttl }, now);
                return Ok((Entry::absent(expiry.unwrap_or(Expiry::Never)), is_cached && expiry.is_some()));
            }
            News::NotModified => {
                let validator = validator.or_else(|| old.as_ref()?.validator().cloned());
                let Some(value) = old.and_then(Entry::into_value) else {
                    let message = "the loader answered \"not modified\", but there is no previous value; \
                                   answer so only if `LoadContext::previous` is `Some`";
                    return Err(Error::new(ErrorKind::InvalidInput, message));
                };
                self.counters.not_modified.increment();
                (value, validator)
            }
        };
        let Lifetime { fresh_until, expiry, .. } = self.lifetimes.of_value(ttl, now);
        Ok((Entry::new(value, expiry).fresh_until(fresh_until).with_validator(validator), is_cached))
    }

    fn backfill(&self, key: &Key, entry: Entry<V>, tickets: Tickets, draw: Option<Draw>) -> Backfill<V> {
        Backfill::new(key.clone(), entry, tickets, self.reader.tiers.len(), draw)
    }

    /// Writes the entry to every tier, from the last up, as a `set` does; deletes the key where
    /// there is no lease, or if there is no entry. So loads that began before cannot fill an older
    /// value. Once begun, it runs to its end, even if the load is dropped.
    async fn replace(&self, key: &Key, entry: Option<Entry<V>>, tickets: Tickets) {
        let (reader, repairer, key) = (Arc::clone(&self.reader), Arc::clone(&self.repairer), key.clone());
        let replaced = self.reader.runtime.spawn(async move {
            if !replace_in(&reader, &key, entry, &tickets).await {
                repairer.start();
            }
            reader.forget(&key);
        });
        if let Err(ended) = replaced.await
            && ended.is_panic()
        {
            std::panic::resume_unwind(ended.into_panic());
        }
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
        self.fill(self.backfill(key, stale, remote, None)).await;
    }

    /// Fills an entry into the tiers. Returns whether it is stored or queued to be.
    ///
    /// Local tiers are filled at once, so that later callers find the entry there. The others are
    /// filled through the queue, so that no caller waits for them, except calls that ask one of
    /// them for the key. If no tier is local, the load waits a little for them.
    async fn fill(&self, mut backfill: Backfill<V>) -> bool {
        let reader = &self.reader;
        let is_local = |(place, _): &(usize, _)| reader.tiers[*place].is_local();
        let (local, remote): (Tickets, Tickets) = backfill.tickets.iter().copied().partition(is_local);
        let filling: Vec<_> = remote.iter().map(|(place, _)| reader.tiers[*place].fills.begin(&backfill.key)).collect();
        if !filling.is_empty() {
            backfill.held = Some(Box::new((filling, backfill.held.take())));
        }
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
        reader.backfills.apply(backfill.part(local)).await;
        backfill.tickets = remote;
        backfill.tickets.is_empty() || reader.backfills.enqueue(backfill)
    }
}

/// Writes the entry to the tiers as [`Loader::replace`] says. Returns whether all of them were
/// written.
async fn replace_in<V: Clone + Send + Sync + 'static>(
    reader: &Reader<V>,
    key: &Key,
    entry: Option<Entry<V>>,
    tickets: &Tickets,
) -> bool {
    let mut expiry = entry.as_ref().map_or(Expiry::Never, Entry::expiry);
    // Cloned before anything is written: a `Clone` that panics must not leave a newer value below an
    // older one.
    let copies = vec![entry; reader.tiers.len()];
    // `true` if every tier below holds the new entry or nothing.
    let mut is_sound = true;
    for ((place, tier), entry) in reader.tiers.iter().enumerate().zip(copies).rev() {
        if tier.is_source() {
            continue;
        }
        expiry = tier.limit(expiry, reader.clock.now());
        let ticket = tickets.iter().find(|(of, _)| *of == place).map(|(_, ticket)| *ticket);
        let results = match (ticket, entry.map(|entry| entry.expiring_by(expiry))) {
            (Some(ticket), Some(entry)) if is_sound => tier.set(vec![Write::new(key.clone(), entry, ticket)]).await,
            _ => tier.del(std::slice::from_ref(key)).await,
        };
        is_sound &= results.iter().all(Result::is_ok);
    }
    is_sound
}
