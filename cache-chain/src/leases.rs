//! The leases of a lookup or a load, which are given back if they are not used.
//!
//! A lease in Redis or in a database leaves a marker there. A lookup that finds nothing would leave one for each key that it was
//! asked for, and fill the server with them.

use std::{
    collections::{HashMap, VecDeque},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cache_core::{Key, Ticket};
use tokio::sync::{Notify, watch};

use crate::{backfill::Tickets, panics::caught, tier::Tier};

/// The tickets of one key, each with the place of its tier. Dropped, it gives back those that leave markers.
pub(crate) struct Leases {
    tickets: Tickets,
    /// Where to give them back, and the key; `None` if no tier has markers.
    home: Option<(Arc<Releases>, Key)>,
}

impl Leases {
    /// No leases of this key yet.
    pub(crate) fn new(releases: Option<&Arc<Releases>>, key: &Key) -> Self {
        Self { tickets: Tickets::new(), home: releases.map(|releases| (Arc::clone(releases), key.clone())) }
    }

    pub(crate) fn push(&mut self, place: usize, ticket: Ticket) {
        self.tickets.push((place, ticket));
        if let Some((releases, key)) = &self.home {
            releases.hold(key, place, ticket);
        }
    }

    /// The same leases for another user. They are given back when neither needs them.
    pub(crate) fn share(&self) -> Self {
        let mut shared = Self { tickets: Tickets::new(), home: self.home.clone() };
        for (place, ticket) in &self.tickets {
            shared.push(*place, *ticket);
        }
        shared
    }

    /// Replaces the ticket of a tier by that of a claim, which its holder gives back.
    pub(crate) fn claimed(&mut self, place: usize, ticket: Ticket) {
        self.forget(|held| held == place);
        self.tickets.push((place, ticket));
    }

    /// The tickets, to be used. What a fill installs takes the marker's place.
    pub(crate) fn take(&mut self) -> Tickets {
        let tickets = self.tickets.clone();
        self.forget(|_| true);
        tickets
    }

    /// Drops the tickets of these tiers, which the caller sees to.
    fn forget(&mut self, places: impl Fn(usize) -> bool) {
        let home = &self.home;
        self.tickets.retain(|(place, ticket)| {
            if places(*place)
                && let Some((releases, key)) = home
            {
                releases.end(key, *place, *ticket, true);
            }
            !places(*place)
        });
    }
}

impl Deref for Leases {
    type Target = Tickets;

    fn deref(&self) -> &Tickets {
        &self.tickets
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let Some((releases, key)) = &self.home {
            for (place, ticket) in &self.tickets {
                releases.end(key, *place, *ticket, false);
            }
        }
    }
}

/// The leases that are in use, and those that are to be given back.
pub(crate) struct Releases {
    /// Of each tier, whether its leases leave markers.
    markers: Box<[bool]>,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    /// Users of one key share a marker, so it is given back when no user is left.
    held: HashMap<(Key, usize), Held>,
    /// In the order in which their last users ended. Some may be in use again.
    idle: VecDeque<(Key, usize)>,
    /// How many ever came into `idle`.
    queued: u64,
    closed: bool,
}

struct Held {
    ticket: Ticket,
    users: usize,
}

/// How many leases wait to be given back at most; the lives of the markers bound what is dropped beyond.
const LIMIT: usize = 16_384;

/// How many leases are given back by one call.
const BATCH: usize = 256;

impl Releases {
    /// `None` if no tier's leases leave anything behind.
    pub(crate) fn of<V: Clone + Send + Sync + 'static>(tiers: &[Tier<V>]) -> Option<Arc<Self>> {
        let markers: Box<[bool]> = tiers.iter().map(|tier| tier.markers).collect();
        let any = markers.contains(&true);
        any.then(|| Arc::new(Self { markers, state: Mutex::default(), ready: Notify::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, key: &Key, place: usize, ticket: Ticket) {
        if !self.markers[place] || ticket.version().is_none() {
            return;
        }
        let mut state = self.state();
        let held = state.held.entry((key.clone(), place)).or_insert(Held { ticket, users: 0 });
        if held.ticket == ticket {
            held.users += 1;
        } else {
            // Another marker has come; the old one is gone.
            *held = Held { ticket, users: 1 };
        }
    }

    fn end(&self, key: &Key, place: usize, ticket: Ticket, is_used: bool) {
        if !self.markers[place] {
            return;
        }
        let mut state = self.state();
        let State { held, idle, queued, closed } = &mut *state;
        let of = (key.clone(), place);
        let Some(users) = held.get_mut(&of).filter(|held| held.ticket == ticket).map(|held| &mut held.users) else {
            return;
        };
        *users = users.saturating_sub(1);
        // What was used by one is no marker soon, and until then it is needed, whoever else was given it.
        if is_used || *closed || (*users == 0 && idle.len() >= LIMIT) {
            held.remove(&of);
            return;
        }
        if *users > 0 {
            return;
        }
        *queued += 1;
        idle.push_back(of);
        drop(state);
        self.ready.notify_one();
    }

    /// How many leases have been queued so far.
    pub(crate) fn end_of_queue(&self) -> u64 {
        self.state().queued
    }

    /// Gives nothing back from now on.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.idle.clear();
        drop(state);
        self.ready.notify_one();
    }

    /// The next leases that are not in use, and how many were looked at; `None` when it is closed.
    async fn next(&self) -> Option<(Vec<(usize, Key, Ticket)>, u64)> {
        loop {
            {
                let mut state = self.state();
                if state.closed {
                    return None;
                }
                let count = state.idle.len().min(BATCH);
                if count > 0 {
                    let State { held, idle, .. } = &mut *state;
                    let mut released = Vec::with_capacity(count);
                    for of in idle.drain(..count) {
                        if held.get(&of).is_some_and(|held| held.users == 0)
                            && let Some(held) = held.remove(&of)
                        {
                            released.push((of.1, of.0, held.ticket));
                        }
                    }
                    return Some((released, count as u64));
                }
            }
            self.ready.notified().await;
        }
    }
}

/// Gives leases back until there is no more to come; tells through `done` how many were seen to.
pub(crate) async fn give_back<V: Clone + Send + Sync + 'static>(
    releases: Arc<Releases>,
    tiers: Arc<[Tier<V>]>,
    done: watch::Sender<u64>,
) {
    while let Some((released, count)) = releases.next().await {
        for (place, tier) in tiers.iter().enumerate() {
            let of_tier = released.iter().filter(|(at, ..)| *at == place);
            let leases: Vec<(Key, Ticket)> = of_tier.map(|(_, key, ticket)| (key.clone(), *ticket)).collect();
            if !leases.is_empty() {
                // If it fails, they run out by themselves.
                let _ = caught(tier.release_leases(&leases)).await;
            }
        }
        done.send_modify(|done| *done += count);
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use cache_core::testkit::block_on;

    use super::*;

    fn releases() -> Arc<Releases> {
        Arc::new(Releases { markers: Box::new([false, true]), state: Mutex::default(), ready: Notify::new() })
    }

    fn leased(releases: &Arc<Releases>, name: &str, version: u64) -> Leases {
        let mut leases = Leases::new(Some(releases), &Key::new(name).unwrap());
        leases.push(0, Ticket::at(version));
        leases.push(1, Ticket::at(version));
        leases
    }

    /// The versions of the leases that are given back.
    fn given_back(releases: &Releases) -> Vec<u64> {
        if releases.state().idle.is_empty() {
            return Vec::new();
        }
        let (given, _) = block_on(releases.next()).unwrap();
        given.into_iter().map(|(place, _, ticket)| (place == 1).then_some(ticket).unwrap().version().unwrap()).collect()
    }

    #[test]
    fn the_last_user_gives_a_lease_back() {
        let releases = releases();
        let (one, two) = (leased(&releases, "k", 1), leased(&releases, "k", 1));
        let three = one.share();
        drop((one, two));
        assert!(given_back(&releases).is_empty());
        drop(three);
        assert_eq!(given_back(&releases), [1]);
        assert!(releases.state().held.is_empty());
    }

    #[test]
    fn a_lease_that_is_taken_again_is_not_given_back() {
        let releases = releases();
        drop(leased(&releases, "k", 1));
        let again = leased(&releases, "k", 1);
        assert!(given_back(&releases).is_empty());
        drop(again);
        assert_eq!(given_back(&releases), [1]);
        // Another marker has come in its place.
        let old = leased(&releases, "k", 1);
        let new = leased(&releases, "k", 2);
        drop(old);
        assert!(given_back(&releases).is_empty());
        drop(new);
        assert_eq!(given_back(&releases), [2]);
    }

    #[test]
    fn what_is_used_or_claimed_is_not_given_back() {
        let releases = releases();
        let (mut filled, other) = (leased(&releases, "k", 1), leased(&releases, "k", 1));
        assert_eq!(filled.take().len(), 2);
        drop((filled, other));
        let mut claimed = leased(&releases, "l", 3);
        claimed.claimed(1, Ticket::at(4));
        assert!(claimed.contains(&(1, Ticket::at(4))) && claimed.contains(&(0, Ticket::at(3))));
        drop(claimed);
        assert!(given_back(&releases).is_empty() && releases.state().held.is_empty());
    }

    #[test]
    fn the_queue_is_bounded() {
        let releases = releases();
        for at in 0..LIMIT + 10 {
            drop(leased(&releases, &at.to_string(), 1));
        }
        let idle = releases.state().idle.len();
        assert_eq!((idle, releases.state().held.len()), (LIMIT, LIMIT));
        releases.close();
        assert!(block_on(releases.next()).is_none());
        drop(leased(&releases, "k", 1));
        assert!(releases.state().idle.is_empty());
    }
}
