//! Writes: to every tier, from the last up.

use std::time::Duration;

use cache_core::{Entry, Error, Failure, Key, Result, Ticket, Ttl, Write};

use crate::{chain::Inner, flights::Flights, tier::Tier};

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    /// Writes the last tier unconditionally and those above with leases that were taken before it. Where a tier fails,
    /// the tiers above are emptied of the key instead of set: what lies below them is not known.
    pub(crate) async fn set(&self, values: Vec<(Key, V)>, ttl: Ttl) -> Result<()> {
        let keys: Vec<Key> = values.iter().map(|(key, _)| key.clone()).collect();
        let _detaching = Detaching { inner: self, keys: Some(&keys) };
        let mut copies = self.copies(values);
        let mut failures = Failures::default();
        let mut tickets = self.lease_above(&keys, &mut failures).await;

        // Whether everything below holds the new value of the key, or nothing.
        let mut sound = vec![true; keys.len()];
        let now = self.clock.now();
        // Jitter is drawn per key: what is written together must not expire together.
        let mut lives: Vec<_> = keys.iter().map(|_| self.life(ttl, now)).collect();
        for tier in self.tiers.iter().rev() {
            // No tier keeps a value longer than the tier below.
            let begun = self.clock.now();
            for (expiry, _) in &mut lives {
                *expiry = tier.expiry(*expiry, begun);
            }
            let values = copies.pop().unwrap_or_default();
            let tickets = tickets.pop().unwrap_or_default();
            let mut set = (Vec::new(), Vec::new());
            let mut removed = (Vec::new(), Vec::new());
            for (at, (value, ticket)) in values.into_iter().zip(tickets).enumerate() {
                let (key, (expiry, fresh_until)) = (keys[at].clone(), lives[at]);
                match ticket {
                    Some(ticket) if sound[at] => {
                        set.0.push(at);
                        set.1.push(Write {
                            key,
                            entry: Entry::new(value, expiry).fresh_until(fresh_until).created_at(now),
                            ticket,
                        });
                    }
                    _ => {
                        removed.0.push(at);
                        removed.1.push(key);
                    }
                }
            }
            for (at, done) in set.0.into_iter().zip(tier.set_many(set.1).await) {
                sound[at] = failures.note(tier, done).is_some();
            }
            for (at, done) in removed.0.into_iter().zip(tier.del_many(&removed.1).await) {
                sound[at] &= failures.note(tier, done).is_some();
            }
        }
        failures.outcome("set")
    }

    /// The values, once for each tier. Copied before anything is written: a `Clone` that panics must not leave a newer value
    /// below an older one.
    fn copies(&self, values: Vec<(Key, V)>) -> Vec<Vec<V>> {
        let values: Vec<V> = values.into_iter().map(|(_, value)| value).collect();
        let mut copies: Vec<Vec<V>> = (1..self.tiers.len()).map(|_| values.clone()).collect();
        copies.push(values);
        copies
    }

    /// The tickets of all tiers for each of the keys, `None` where a tier gave none.
    async fn lease_above(&self, keys: &[Key], failures: &mut Failures) -> Vec<Vec<Option<Ticket>>> {
        let mut tickets = Vec::with_capacity(self.tiers.len());
        for tier in &self.tiers[..self.tiers.len() - 1] {
            let leased = tier.lease_many(keys, tier.read_timeout, Duration::MAX).await;
            tickets.push(leased.into_iter().map(|ticket| failures.note(tier, ticket)).collect());
        }
        tickets.push(vec![Some(Ticket::unconditional()); keys.len()]);
        tickets
    }

    pub(crate) async fn del(&self, keys: &[Key]) -> Result<()> {
        let _detaching = Detaching { inner: self, keys: Some(keys) };
        let mut failures = Failures::default();
        for tier in self.tiers.iter().rev() {
            for deleted in tier.del_many(keys).await {
                failures.note(tier, deleted);
            }
        }
        failures.outcome("del")
    }

    pub(crate) async fn clear(&self) -> Result<()> {
        let _detaching = Detaching { inner: self, keys: None };
        let mut failures = Failures::default();
        for tier in self.tiers.iter().rev() {
            failures.note(tier, tier.clear().await);
        }
        failures.outcome("clear")
    }
}

/// Detaches the flights of what is written, when it has been. Not before: a flight that begins while the lower tiers are being
/// written may bring what was there before, and whoever comes after the write must not join it.
struct Detaching<'a, V: Clone + Send + Sync + 'static> {
    inner: &'a Inner<V>,
    /// `None`: all.
    keys: Option<&'a [Key]>,
}

impl<V: Clone + Send + Sync + 'static> Drop for Detaching<'_, V> {
    fn drop(&mut self) {
        let Inner { reads, loads, .. } = self.inner;
        if let Some(keys) = self.keys {
            for key in keys {
                for reads in reads {
                    reads.detach(key);
                }
                loads.detach(key);
            }
        } else {
            reads.iter().for_each(Flights::detach_all);
            loads.detach_all();
        }
    }
}

/// The tiers that failed, each with its first error.
#[derive(Default)]
pub(crate) struct Failures(Vec<Failure>);

impl Failures {
    /// The value, or `None` with the error noted.
    pub(crate) fn note<V, T>(&mut self, tier: &Tier<V>, result: Result<T>) -> Option<T>
    where
        V: Clone + Send + Sync + 'static,
    {
        result
            .map_err(|error| {
                // No two tiers of a chain have one name.
                if self.0.iter().all(|failure| failure.name() != tier.title()) {
                    self.0.push(Failure::new(tier.title(), error));
                }
            })
            .ok()
    }

    pub(crate) fn outcome(self, operation: &str) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::from_failures(operation, self.0)) }
    }
}
