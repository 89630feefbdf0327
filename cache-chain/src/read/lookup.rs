//! The lookup: asks the tiers from the first down until one has a fresh entry.

use std::time::Duration;

use cache_core::{Entry, Error, ErrorKind, Key, Result};

use super::{Leases, Purpose, Query, Reader};
use crate::{
    backfill::Backfill,
    tier::{
        Tier,
        read::{Each, Known, Peeked, Suspects, TierLookup},
    },
    util::deadline::Deadline,
};

/// The result of a lookup of one key in the tiers.
pub(crate) struct Lookup<V> {
    /// A fresh entry, and the place of its tier. The tiers above are being backfilled.
    pub(crate) hit: Option<(usize, Entry<V>)>,
    /// The first entry above the hit that is stale, or older than the query accepts, and the place
    /// of its tier.
    pub(crate) stale: Option<(usize, Entry<V>)>,
    /// `true` if a tier above the hit has a fresh entry that is older than the query accepts.
    pub(crate) is_outdated: bool,
    /// The leases of the tiers without a fresh entry, except the last tier.
    pub(crate) leases: Leases,
    /// The tiers that failed.
    pub(crate) failed: Vec<(usize, Error)>,
    /// `true` if a tier timed out that would have had more time if the caller's deadline had been
    /// later.
    pub(crate) cut_short: bool,
}

impl<V: Clone> Lookup<V> {
    /// Returns the fresh entry, if there is one. Without one, "not found" would be a guess if a
    /// tier has failed.
    pub(crate) fn fresh(&self) -> Result<Option<(usize, Entry<V>)>> {
        match (&self.hit, self.failed.first()) {
            (Some(hit), _) => Ok(Some(hit.clone())),
            (None, Some((_, error))) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }
}

impl<V> Lookup<V> {
    pub(crate) fn has_failed(&self, place: usize) -> bool {
        self.failed.iter().any(|(failed, _)| *failed == place)
    }
}

impl<V: Clone + Send + Sync + 'static> Reader<V> {
    pub(super) fn nothing_of(&self, key: &Key) -> Lookup<V> {
        let leases = self.no_leases(key);
        Lookup { hit: None, stale: None, is_outdated: false, leases, failed: Vec::new(), cut_short: false }
    }

    /// Asks the tiers for the keys, from the first down; each tier for the keys that those above
    /// lack. Before a tier is read, the leases of those above are taken. `peeked` is what the first
    /// tier has answered already, if it is local.
    pub(super) async fn descend(
        &self,
        keys: &[Key],
        peeked: Option<Vec<Peeked<V>>>,
        deadline: Deadline,
        query: &Query,
    ) -> Vec<Lookup<V>> {
        let (last, purpose) = (self.tiers.len() - 1, query.purpose);
        let mut lookups: Vec<Lookup<V>> = keys.iter().map(|key| self.nothing_of(key)).collect();
        let mut missing: Each<usize> = (0..keys.len()).collect();
        let mut peeked = peeked.filter(|_| self.tiers[0].is_local());
        for (place, tier) in self.tiers.iter().enumerate() {
            if missing.is_empty() {
                break;
            }
            let limit = deadline.share(self.parts(place, purpose), tier.read_timeout);
            let may_lease = place < last && !query.unwritten.contains(&place) && self.may_lease(tier, purpose);
            let lease = may_lease.then(|| self.lease_time(place + 1, limit, deadline, purpose));
            let asked: Each<Key> = missing.iter().map(|&at| keys[at].clone()).collect();
            let mut answers = peeked.take();
            if query.unread.contains(&place) {
                answers = Some(asked.iter().map(|_| Peeked { entry: None, is_counted: true }).collect());
            }
            let suspects = if answers.is_none() { self.suspects(place, &asked, query) } else { Suspects::default() };
            let known = answers.map_or(Known::Suspects(&suspects), Known::Answers);
            let accepts = |entry: &Entry<V>| self.accepts(tier, entry, query);
            // A load may serve a stale entry.
            let uses_any = purpose == Purpose::Load;
            let answers = tier.look_up(&asked, known, lease, limit, (accepts, uses_any)).await;
            let is_short = limit < tier.read_timeout;
            for (&at, answer) in missing.iter().zip(answers) {
                self.note_check(suspects.get(&keys[at]), (&keys[at], &lookups[at].leases), &answer);
                self.note(place, (&keys[at], &mut lookups[at]), answer, is_short, accepts);
            }
            missing.retain(|at| lookups[*at].hit.is_none());
        }
        let backfills = keys.iter().zip(&mut lookups).filter_map(|(key, lookup)| {
            self.serve_in_grace(key, lookup, query);
            self.backfill_of(key, lookup, query)
        });
        self.backfills.enqueue_all(backfills);
        lookups
    }

    /// Returns the suspect entries of the first tiers, if the tier of this place can confirm them.
    fn suspects(&self, place: usize, keys: &[Key], query: &Query) -> Suspects<V> {
        match self.first() {
            Some(first) if first.shared == place => {
                let suspect = |key: &Key| Some((key.clone(), self.held_above(place, key, query)?.1));
                keys.iter().filter_map(suspect).collect()
            }
            _ => Suspects::default(),
        }
    }

    /// Returns the first entry that the local tiers above this place hold of the key, suspect or
    /// not, and the place of its tier.
    fn held_above(&self, place: usize, key: &Key, query: &Query) -> Option<(usize, Entry<V>)> {
        self.tiers[..place]
            .iter()
            .enumerate()
            .filter(|(place, _)| !query.unread.contains(place))
            .find_map(|(place, tier)| Some((place, tier.local()?.get(key)?)))
    }

    /// Notes what the shared tier has answered for a suspect entry.
    fn note_check(&self, suspect: Option<&Entry<V>>, (key, leases): (&Key, &Leases), answer: &Result<TierLookup<V>>) {
        if let (Some(first), Some(suspect), Ok(TierLookup { entry, .. })) = (self.first(), suspect, answer) {
            first.note_check((key, suspect), entry.as_ref(), leases.draw().as_ref());
        }
    }

    /// Lets a lookup without a hit find a suspect entry, fresh or stale, if the shared tier has
    /// failed and the settings allow it.
    fn serve_in_grace(&self, key: &Key, lookup: &mut Lookup<V>, query: &Query) {
        let Some(first) = self.first().filter(|first| lookup.hit.is_none() && lookup.has_failed(first.shared)) else {
            return;
        };
        let held = self.held_above(first.shared, key, query);
        let Some((place, entry)) = held.filter(|(_, entry)| first.is_in_grace(key, entry)) else { return };
        if self.accepts(&self.tiers[place], &entry, query) {
            lookup.hit = Some((place, entry));
            first.counters.served_in_grace.increment();
        } else {
            self.note_unaccepted(place, lookup, entry);
        }
    }

    /// Adds the answer of one tier to a lookup.
    fn note(
        &self,
        place: usize,
        (key, lookup): (&Key, &mut Lookup<V>),
        answer: Result<TierLookup<V>>,
        is_short: bool,
        accepts: impl Fn(&Entry<V>) -> bool,
    ) {
        match answer {
            Ok(TierLookup { entry, ticket }) => {
                match entry {
                    Some(entry) if accepts(&entry) => lookup.hit = Some((place, entry)),
                    Some(entry) => self.note_unaccepted(place, lookup, entry),
                    None => {}
                }
                if let Some(ticket) = ticket {
                    self.returns.add(&mut lookup.leases, key, place, ticket);
                }
            }
            Err(error) => {
                lookup.cut_short |= error.kind() == ErrorKind::Timeout && is_short;
                lookup.failed.push((place, error));
            }
        }
    }

    /// Adds an entry that is stale, or older than the query accepts, to a lookup.
    fn note_unaccepted(&self, place: usize, lookup: &mut Lookup<V>, entry: Entry<V>) {
        lookup.is_outdated |= self.tiers[place].is_fresh(&entry);
        if lookup.stale.is_none() && self.may_be_served_stale(&entry) {
            lookup.stale = Some((place, entry));
        }
    }

    /// Returns the backfill of a hit. An entry that has expired on the way is a miss. A tier that
    /// answered and granted no lease cannot be backfilled, which counts as a failed backfill.
    fn backfill_of(&self, key: &Key, lookup: &mut Lookup<V>, query: &Query) -> Option<Backfill<V>> {
        lookup.hit.take_if(|(_, entry)| self.has_expired(entry));
        // There is nothing to fill above the first tier.
        let (place, entry) = lookup.hit.as_ref().filter(|(place, _)| *place > 0)?;
        // Cloned first: if that panics, the leases are returned.
        let (place, entry) = (*place, entry.clone());
        let (draw, tickets) = (lookup.leases.draw(), lookup.leases.take());
        let unwritten = query.unwritten.iter().filter(|unwritten| **unwritten < place).count();
        let explained = tickets.len() + lookup.failed.len() + unwritten;
        self.backfills.counters().failed.add(place.saturating_sub(explained));
        (!tickets.is_empty()).then(|| Backfill::new(key.clone(), entry, tickets, place, draw))
    }

    /// Returns `true` if a lookup takes leases of this tier. Without a lease, the tier is not
    /// backfilled.
    fn may_lease(&self, tier: &Tier<V>, purpose: Purpose) -> bool {
        purpose == Purpose::Load || !tier.has_markers() || !self.returns.are_behind()
    }

    /// Into how many parts the time is divided from this tier on: the tiers that take time, and a
    /// loader.
    fn parts(&self, from: usize, purpose: Purpose) -> usize {
        self.tiers[from..].iter().filter(|tier| !tier.is_local()).count() + usize::from(purpose == Purpose::Load)
    }

    /// Returns the time that a `get` gives the tier of this place, if those above take none.
    pub(crate) fn time_for(&self, place: usize) -> Duration {
        let deadline = Deadline::after(self.timeout);
        deadline.share(self.parts(place, Purpose::Get), self.tiers[place].read_timeout)
    }

    /// For how long a lease is needed: for the rest of its own tier's limit, the tiers from `next`
    /// on, and a loader.
    fn lease_time(&self, next: usize, limit: Duration, deadline: Deadline, purpose: Purpose) -> Duration {
        let below = self.tiers[next..].iter().filter(|tier| !tier.is_local());
        let lookup = below.fold(limit, |sum, tier| sum.saturating_add(tier.read_timeout));
        let load = if purpose == Purpose::Load { self.load_timeout } else { Duration::ZERO };
        deadline.share(1, lookup).saturating_add(load)
    }

    /// Takes the leases that these lookups lack, before a load. A tier that grants none cannot be
    /// filled, which counts as a failed backfill; a tier that has failed the lookup is not asked
    /// again.
    pub(crate) async fn lease_rest(
        &self,
        keys: &[Key],
        leases: &mut [Leases],
        has_failed: impl Fn(usize, usize) -> bool,
    ) {
        for (place, tier) in self.tiers.iter().enumerate() {
            let lacks = |at: &usize| !leases[*at].has(place) && !has_failed(*at, place);
            let missing: Each<usize> = (0..keys.len()).filter(lacks).collect();
            let asked: Each<Key> = missing.iter().map(|&at| keys[at].clone()).collect();
            let tickets = tier.lease(&asked, tier.read_timeout, self.load_timeout).await;
            for (at, ticket) in missing.into_iter().zip(tickets) {
                match ticket {
                    Ok(ticket) => self.returns.add(&mut leases[at], &keys[at], place, ticket),
                    Err(_) => self.backfills.counters().failed.increment(),
                }
            }
        }
    }

    /// Returns `true` if a load may serve this entry although it is not fresh. An absence is not
    /// served: there may be a value by now.
    fn may_be_served_stale(&self, entry: &Entry<V>) -> bool {
        !entry.is_absent() && !self.has_expired(entry)
    }
}
