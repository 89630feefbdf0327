//! Reads: down from the first tier to the first hit.

use cache_core::{Entry, Error, Expiry, Key, Result};

use crate::{
    backfill::{Job, Tickets},
    chain::Inner,
    tier::Found,
};

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    /// The first tier's answer if it is local and has one. A miss is not counted: [`read`](Self::read) asks it again.
    pub(crate) fn first(&self, key: &Key) -> Option<Entry<V>> {
        let tier = &self.tiers[0];
        let entry = tier.local()?.get(key)?;
        tier.hit();
        Some(entry)
    }

    /// The first hit from the first tier down. Before a tier is read, the leases of those above are taken.
    pub(crate) async fn read(&self, key: Key) -> Result<Option<Entry<V>>> {
        let last = self.tiers.len() - 1;
        let mut tickets = Tickets::new();
        let mut failed: Option<Error> = None;
        for (at, tier) in self.tiers.iter().enumerate() {
            // A tier that gives no lease is not backfilled.
            match tier.look_up(&key, at < last).await {
                Ok(Found::Entry(entry)) => return Ok(self.found(at, key, entry, tickets)),
                Ok(Found::Nothing(ticket)) => tickets.extend(ticket.map(|ticket| (at, ticket))),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// As [`read`](Self::read) for each key, each tier being asked once, for what the tiers above lack.
    pub(crate) async fn read_many(&self, keys: Vec<Key>) -> Result<Vec<Option<Entry<V>>>> {
        let last = self.tiers.len() - 1;
        let mut entries: Vec<Option<Entry<V>>> = keys.iter().map(|_| None).collect();
        let mut failed: Option<(usize, Error)> = None;
        let mut lacking: Vec<Lacking> = keys
            .into_iter()
            .enumerate()
            .map(|(at, key)| Lacking { at, key, tickets: Tickets::new(), failed: None })
            .collect();
        for (place, tier) in self.tiers.iter().enumerate() {
            if lacking.is_empty() {
                break;
            }
            let asked: Vec<Key> = lacking.iter().map(|lacking| lacking.key.clone()).collect();
            let mut missed = Vec::new();
            let mut passed_over = Vec::new();
            for (mut lacking, found) in lacking.into_iter().zip(tier.get_many(&asked).await) {
                match found {
                    Ok(Some(entry)) => {
                        entries[lacking.at] = self.found(place, lacking.key, entry, lacking.tickets);
                    }
                    Ok(None) => missed.push(lacking),
                    Err(error) => {
                        lacking.failed.get_or_insert(error);
                        passed_over.push(lacking);
                    }
                }
            }
            if place < last {
                let keys: Vec<Key> = missed.iter().map(|lacking| lacking.key.clone()).collect();
                for (lacking, ticket) in missed.iter_mut().zip(tier.lease_many(&keys).await) {
                    lacking.tickets.extend(ticket.ok().map(|ticket| (place, ticket)));
                }
            }
            missed.append(&mut passed_over);
            lacking = missed;
        }
        for lacking in lacking {
            if let Some(error) = lacking.failed
                && failed.as_ref().is_none_or(|(at, _)| lacking.at < *at)
            {
                failed = Some((lacking.at, error));
            }
        }
        failed.map_or(Ok(entries), |(_, error)| Err(error))
    }

    /// Has the tiers above backfilled. What expired on the way is a miss.
    fn found(&self, place: usize, key: Key, entry: Entry<V>, tickets: Tickets) -> Option<Entry<V>> {
        if entry.expiry() != Expiry::Never && entry.is_expired(self.clock.now()) {
            return None;
        }
        if !tickets.is_empty() {
            let bytes =
                entry.value().map_or(0, |value| (self.weigher)(&key, value)).saturating_add(Job::<V>::overhead(&key));
            self.queue.push(Job { key, entry: entry.clone(), tickets, found_in: place, bytes });
        }
        Some(entry)
    }
}

/// A key that no tier has had so far.
struct Lacking {
    /// Its place among the keys asked for.
    at: usize,
    key: Key,
    tickets: Tickets,
    failed: Option<Error>,
}
