//! `set`: the last tier first, then those above with leases that were taken before.

use std::{sync::Arc, time::Duration};

use cache_core::{Entry, Key, Lifetime, LocalStore, Result, Ticket, Ttl, Write};

use super::{Failures, Forgetting, Writer};
use crate::{
    tier::{Places, Tier},
    util::key_map::KeyMap,
};

impl<V: Clone + Send + Sync + 'static> Writer<V> {
    /// Sets values with one TTL. If a key occurs more than once, its last value is set.
    /// They are not stored in the tiers of `unwritten`; older values are deleted from these.
    pub(crate) async fn set(self: &Arc<Self>, values: Vec<(Key, V)>, ttl: Ttl, unwritten: Places) -> Result<()> {
        let mut values = last_of_each(values);
        if let [tier] = &*self.tiers
            && let (Some(local), [(key, _)]) = (tier.local(), &values[..])
            && unwritten.is_empty()
            && self.completion.may_begin(std::slice::from_ref(key))?
            && let Some((key, value)) = values.pop()
        {
            return self.set_at_once((tier, local), &key, value, ttl);
        }
        let keys = values.iter().map(|(key, _)| key.clone()).collect();
        let weight = |(key, value): &(Key, V)| (self.weigher)(key, value).saturating_add(size_of::<V>());
        let bytes = values.iter().map(weight).fold(0, usize::saturating_add);
        let writer = Arc::clone(self);
        self.complete("set", keys, bytes, Box::pin(async move { writer.set_all(values, ttl, &unwritten).await })).await
    }

    /// Sets a value in the only tier of the chain, which is in this process. This needs no task and
    /// no leases, and allocates nothing but what the store does.
    fn set_at_once(
        &self,
        (tier, local): (&Tier<V>, &dyn LocalStore<Value = V>),
        key: &Key,
        value: V,
        ttl: Ttl,
    ) -> Result<()> {
        let _forgetting = Forgetting { flights: &self.flights, keys: Some(std::slice::from_ref(key)) };
        let now = self.clock.now();
        let Lifetime { fresh_until, expiry, .. } = self.lifetimes.of_value(ttl, now);
        let entry = Entry::new(value, tier.limit(expiry, now)).fresh_until(fresh_until).created_at(now);
        let mut failures = Failures::default();
        failures.note(tier, tier.set_at_once(local, key, entry));
        failures.of_write("set").inspect(|()| self.counters.set.increment())
    }

    /// Sets the last tier unconditionally, and those above with leases taken before. If a tier
    /// fails, the key is deleted from the tiers above instead, because the value below them is
    /// unknown.
    async fn set_all(&self, values: Vec<(Key, V)>, ttl: Ttl, unwritten: &[usize]) -> Result<()> {
        let keys: Vec<Key> = values.iter().map(|(key, _)| key.clone()).collect();
        let _forgetting = Forgetting { flights: &self.flights, keys: Some(&keys) };
        let mut copies = self.copies(values);
        let mut failures = Failures::default();
        let mut tickets = self.lease_above(&keys, unwritten, &mut failures).await;

        // For each key, `true` if every tier below holds the new value or nothing.
        let mut is_sound = vec![true; keys.len()];
        let now = self.clock.now();
        let mut lifetimes: Vec<_> = keys.iter().map(|_| self.lifetimes.of_value(ttl, now)).collect();
        for (place, tier) in self.tiers.iter().enumerate().rev() {
            let (values, tickets) = (copies.pop().unwrap_or_default(), tickets.pop().unwrap_or_default());
            if tier.is_source() && unwritten.contains(&place) {
                continue;
            }
            // No tier keeps a value longer than the tier below.
            let begun = self.clock.now();
            for Lifetime { expiry, .. } in &mut lifetimes {
                *expiry = tier.limit(*expiry, begun);
            }
            let (mut set, mut deleted) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
            for (at, (value, ticket)) in values.into_iter().zip(tickets).enumerate() {
                let (key, Lifetime { fresh_until, expiry, .. }) = (keys[at].clone(), lifetimes[at]);
                match ticket {
                    Some(ticket) if is_sound[at] => {
                        // Without a stamp: the shared tier announces the write, and is asked then.
                        let entry = Entry::new(value, expiry).fresh_until(fresh_until).created_at(now);
                        set.0.push(at);
                        set.1.push(Write::new(key, entry, ticket));
                    }
                    _ => {
                        deleted.0.push(at);
                        deleted.1.push(key);
                    }
                }
            }
            // Boxed, so that no future of a write is so large that allocators take a lock for it.
            for (at, result) in set.0.into_iter().zip(Box::pin(tier.set(set.1)).await) {
                is_sound[at] = failures.note(tier, result).is_some();
            }
            if !deleted.0.is_empty() {
                for (at, result) in deleted.0.into_iter().zip(Box::pin(tier.del(&deleted.1)).await) {
                    is_sound[at] &= failures.note(tier, result).is_some();
                }
            }
        }
        failures.of_write("set").inspect(|()| self.counters.set.add(keys.len()))
    }

    /// The values, once per tier. They are cloned before anything is written: a `Clone` that panics
    /// must not leave a newer value below an older one.
    fn copies(&self, values: Vec<(Key, V)>) -> Vec<Vec<V>> {
        let values: Vec<V> = values.into_iter().map(|(_, value)| value).collect();
        let mut copies: Vec<Vec<V>> = (1..self.tiers.len()).map(|_| values.clone()).collect();
        copies.push(values);
        copies
    }

    /// For each tier, a ticket per key; `None` if the tier granted no lease or is not to be
    /// written.
    async fn lease_above(
        &self,
        keys: &[Key],
        unwritten: &[usize],
        failures: &mut Failures,
    ) -> Vec<Vec<Option<Ticket>>> {
        let last = self.tiers.len() - 1;
        let mut tickets = Vec::with_capacity(self.tiers.len());
        for (place, tier) in self.tiers.iter().enumerate() {
            tickets.push(if unwritten.contains(&place) {
                vec![None; keys.len()]
            } else if place == last {
                vec![Some(Ticket::unconditional()); keys.len()]
            } else {
                let leased = Box::pin(tier.lease(keys, tier.read_timeout, Duration::MAX)).await;
                leased.into_iter().map(|ticket| failures.note(tier, ticket)).collect()
            });
        }
        tickets
    }
}

/// The last value of each key. Set twice in one batch, a key would be left absent above the last
/// tier.
fn last_of_each<V>(mut values: Vec<(Key, V)>) -> Vec<(Key, V)> {
    if values.len() > 1 {
        let last: KeyMap<usize> = values.iter().enumerate().map(|(at, (key, _))| (key.clone(), at)).collect();
        let mut at = 0..;
        values.retain(|(key, _)| last.get(key).copied() == at.next());
    }
    values
}
