//! Reads of a tier, its leases and its claims.

use std::time::Duration;

use cache_core::{Claim, Entry, Error, ErrorKind, Key, Result, Revalidated, Ticket, backend::ServerTime};
use tokio::time::Instant;

pub(crate) use super::call::Each;
use super::{
    Tier,
    call::{Verdict, verdict},
    operation::Operation,
};
use crate::util::{deadline::after, key_map::KeyMap};

/// The entry or the lease that a tier has of a key.
pub(crate) struct TierLookup<V> {
    /// The entry, fresh or stale.
    pub(crate) entry: Option<Entry<V>>,
    /// The lease of a key without an acceptable entry, if the tier granted one.
    pub(crate) ticket: Option<Ticket>,
}

/// The answer of a local tier from before the lookup.
pub(crate) struct Peeked<V> {
    pub(crate) entry: Option<Entry<V>>,
    /// `true` if the statistics have counted it.
    pub(crate) is_counted: bool,
}

/// The knowledge about keys before a tier is asked.
pub(crate) enum Known<'a, V> {
    /// The answers of the tier.
    Answers(Vec<Peeked<V>>),
    /// Entries for the tier to confirm.
    Suspects(&'a Suspects<V>),
}

/// Tells whether an entry counts as a hit.
type IsHit<'a, V> = &'a (dyn Fn(&Entry<V>) -> bool + Sync);

/// Entries that the tiers above hold and that are suspect, by their keys.
pub(crate) type Suspects<V> = KeyMap<Entry<V>>;

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    /// Looks up the keys, and takes a lease for `lease` of each key without an acceptable entry,
    /// all within `limit`. A tier that has been asked before gives its answers. If the store
    /// confirms a suspect entry, that entry is the answer. An entry that is not acceptable counts as
    /// a hit only if `uses_any`.
    #[allow(clippy::manual_async_fn, reason = "an async function has room for two of each argument")]
    pub(crate) fn look_up<'a>(
        &'a self,
        keys: &'a [Key],
        known: Known<'a, V>,
        lease: Option<Duration>,
        limit: Duration,
        (accepts, uses_any): (impl Fn(&Entry<V>) -> bool + Send + Sync + 'a, bool),
    ) -> impl Future<Output = Each<Result<TierLookup<V>>>> + Send + 'a {
        async move {
            let until = after(limit);
            let is_hit: IsHit<'_, V> = &|entry| uses_any || accepts(entry);
            let entries = match known {
                Known::Answers(peeked) => {
                    peeked.into_iter().map(|peeked| Ok(self.count_peeked(peeked, is_hit))).collect()
                }
                Known::Suspects(suspects) => Box::pin(self.get(keys, suspects, limit, Some(is_hit))).await,
            };
            let mut lookups: Each<Result<TierLookup<V>>> =
                entries.into_iter().map(|entry| Ok(TierLookup { entry: entry?, ticket: None })).collect();
            if let Some(lease) = lease {
                let needs_lease = |lookup: &Result<TierLookup<V>>| match lookup {
                    Ok(TierLookup { entry, .. }) => !entry.as_ref().is_some_and(&accepts),
                    Err(_) => false,
                };
                let at: Each<usize> = (0..keys.len()).filter(|&at| needs_lease(&lookups[at])).collect();
                let rest = until.saturating_duration_since(Instant::now());
                Box::pin(self.lease_of(keys, at, &mut lookups, rest, lease)).await;
            }
            lookups
        }
    }

    /// Adds leases to the lookups of these places, which live for `life`, all within `limit`.
    async fn lease_of(
        &self,
        keys: &[Key],
        at: Each<usize>,
        lookups: &mut [Result<TierLookup<V>>],
        limit: Duration,
        life: Duration,
    ) {
        let leased: Each<Key> = at.iter().map(|&at| keys[at].clone()).collect();
        for (at, ticket) in at.into_iter().zip(self.lease(&leased, limit, life).await) {
            if let Ok(lookup) = &mut lookups[at] {
                lookup.ticket = ticket.ok();
            }
        }
    }

    fn count_peeked(&self, Peeked { entry, is_counted }: Peeked<V>, is_hit: IsHit<'_, V>) -> Option<Entry<V>> {
        if is_counted {
            return entry;
        }
        let count = if entry.as_ref().is_some_and(is_hit) { &self.counters.hits } else { &self.counters.misses };
        count.increment();
        entry
    }

    /// Returns the entries of the keys again, without counting them.
    pub(crate) async fn recheck_many(&self, keys: &[Key]) -> Each<Result<Option<Entry<V>>>> {
        if keys.is_empty() { Each::new() } else { self.get(keys, &Suspects::default(), self.read_timeout, None).await }
    }

    /// Returns the entry of a key again, without counting it.
    pub(crate) async fn recheck(&self, key: &Key) -> Result<Option<Entry<V>>> {
        self.recheck_many(std::slice::from_ref(key)).await.into_iter().next().unwrap_or(Ok(None))
    }

    /// Returns the entries of the keys, as far as they may be read. A suspect entry that the store
    /// confirms is returned itself. Nothing is counted without `counts`.
    async fn get(
        &self,
        keys: &[Key],
        suspects: &Suspects<V>,
        limit: Duration,
        counts: Option<IsHit<'_, V>>,
    ) -> Each<Result<Option<Entry<V>>>> {
        if self.is_local() {
            return keys.iter().map(|key| self.classify(Ok(self.peek(key)), counts)).collect();
        }
        let limit = self.fills.ended(keys, limit).await;
        let get = async |is_probe| {
            // A probe repairs first, and its failure is the answer.
            let repaired = self.repair(is_probe).await.map(drop);
            if is_probe {
                repaired.clone()?;
            }
            self.get_repaired((keys, suspects), &repaired, counts).await
        };
        self.counted(self.call_with_verdict(Operation::Get, limit, keys.len(), get).await, keys.len())
    }

    /// As [`get`](Self::get), after an attempt to repair the tier that ended like this.
    async fn get_repaired(
        &self,
        (keys, suspects): (&[Key], &Suspects<V>),
        repaired: &Result<()>,
        counts: Option<IsHit<'_, V>>,
    ) -> Result<(Each<Result<Option<Entry<V>>>>, Verdict)> {
        let withheld: Each<Option<Error>> = keys.iter().map(|key| self.withheld(key, repaired)).collect();
        if withheld.iter().all(Option::is_none) {
            let found = self.fetch(keys, suspects).await?;
            let verdict = verdict(&found);
            return Ok((found.into_iter().map(|found| self.classify(found, counts)).collect(), Some(verdict)));
        }
        let asked: Each<Key> =
            keys.iter().zip(&withheld).filter(|(_, withheld)| withheld.is_none()).map(|(key, _)| key.clone()).collect();
        if asked.is_empty() {
            // The store was not asked, unless to repair it.
            repaired.clone()?;
            return Ok((withheld.into_iter().flatten().map(Err).collect(), None));
        }
        let found = self.fetch(&asked, suspects).await?;
        let verdict = verdict(&found);
        let mut found = found.into_iter();
        let merged = withheld.into_iter().filter_map(|withheld| match withheld {
            Some(error) => Some(Err(error)),
            None => found.next().map(|found| self.classify(found, counts)),
        });
        Ok((merged.collect(), Some(verdict)))
    }

    /// One entry per key from the store.
    async fn fetch(&self, keys: &[Key], suspects: &Suspects<V>) -> Result<Each<Result<Option<Entry<V>>>>> {
        let found = match keys {
            _ if !suspects.is_empty() => self.revalidate(keys, suspects).await,
            [key] => Each::from_iter([self.store.get(key).await]),
            _ => self.store.get_many(keys).await.into(),
        };
        self.complete(found, keys.len())
    }

    /// One entry per key from the store: the suspect one if the store confirms it.
    async fn revalidate(&self, keys: &[Key], suspects: &Suspects<V>) -> Each<Result<Option<Entry<V>>>> {
        let etag = |key: &Key| suspects.get(key).and_then(Entry::etag);
        let known: Vec<_> = keys.iter().map(|key| (key.clone(), etag(key))).collect();
        let answers = self.store.revalidate_many(&known).await;
        let entry = |(key, answer): (&Key, Result<Revalidated<V>>)| match answer? {
            Revalidated::NotModified => Ok(suspects.get(key).cloned()),
            Revalidated::Modified(entry) => Ok(entry),
        };
        // One that is missing is noticed by the caller.
        keys.iter().zip(answers).map(entry).collect()
    }

    /// Classifies an answer: entries that must not be read and bytes that do not decode are misses.
    fn classify(&self, found: Result<Option<Entry<V>>>, counts: Option<IsHit<'_, V>>) -> Result<Option<Entry<V>>> {
        let entry = match found {
            Ok(entry) => entry.filter(|entry| !self.pending.rejects(entry)),
            Err(error) if error.kind() == ErrorKind::Codec => {
                self.counters.undecodable.add(usize::from(counts.is_some()));
                self.report_undecodable(&error);
                None
            }
            Err(error) => return Err(error),
        };
        if let Some(is_hit) = counts {
            let count = if entry.as_ref().is_some_and(is_hit) { &self.counters.hits } else { &self.counters.misses };
            count.increment();
        }
        Ok(entry)
    }

    #[inline]
    pub(crate) fn is_fresh(&self, entry: &Entry<V>) -> bool {
        !entry.turns_stale() || !entry.stale_at().has_passed(&*self.clock)
    }

    /// Returns the time by the clock of the store's backend, if there is one.
    pub(crate) async fn server_time(&self) -> Result<Option<ServerTime>> {
        self.call(Operation::Time, self.read_timeout, async |_| self.store.server_time().await).await
    }

    /// Takes a lease of each key for `life`, all within `limit`.
    pub(crate) async fn lease(&self, keys: &[Key], limit: Duration, life: Duration) -> Each<Result<Ticket>> {
        if let Some(local) = self.local() {
            return keys.iter().map(|key| Ok(local.fence().lease(key))).collect();
        }
        if keys.is_empty() {
            return Each::new();
        }
        let lease = async |_| match keys {
            [key] => Each::from_iter([self.store.lease_within(key, life).await]),
            _ => self.store.lease_many_within(keys, life).await.into(),
        };
        if self.is_fenced {
            // The fence answers at once, whatever state the store is in.
            return lease(false).await;
        }
        self.call_for_each(Operation::Lease, limit, keys.len(), lease).await
    }

    /// Returns leases that are not needed, so that they leave nothing in the store.
    pub(crate) async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
        self.call(Operation::Release, self.write_timeout, async |_| self.store.release_leases(leases).await).await
    }

    /// Claims the right to load the keys, for `life`.
    pub(crate) async fn claim(&self, keys: &[Key], life: Duration) -> Each<Result<Claim>> {
        let claim = async |_| match keys {
            [key] => Each::from_iter([self.store.claim_within(key, life).await]),
            _ => self.store.claim_many_within(keys, life).await.into(),
        };
        self.call_for_each(Operation::Claim, self.read_timeout, keys.len(), claim).await
    }

    /// Lets claims live for `life` from now on.
    pub(crate) async fn renew_claims(&self, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        self.call(Operation::RenewClaims, self.write_timeout, async |_| self.store.renew_claims(claims, life).await)
            .await
    }

    /// Returns a claim.
    pub(crate) async fn release(&self, key: &Key, ticket: Ticket) -> Result<()> {
        self.call(Operation::Release, self.write_timeout, async |_| self.store.release(key, ticket).await).await
    }
}
