//! The leases of a lookup or a load. Those that are not used are returned.
//!
//! A lease in Redis or in a database leaves a marker there. Without the return, a lookup that finds
//! nothing would leave one marker per key, and fill the server with them.

use std::{
    collections::{HashMap, VecDeque},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard},
};

use cache_core::{Key, Ticket};
use tokio::sync::{Notify, watch};

use crate::{
    backfill::Tickets,
    coherence::Draw,
    tier::Tier,
    util::{panics::caught, runtime::RuntimeHandle, sync::lock},
};

/// The leases of one key, each with the place of its tier. Dropped, it returns those that leave
/// markers.
pub(crate) struct Leases {
    tickets: Tickets,
    /// The stamp for what is filled with them.
    draw: Option<Draw>,
    /// Where to return them, and the key; `None` if none of them leaves a marker.
    home: Option<(Arc<Returns>, Key)>,
}

impl Leases {
    /// No leases yet, and the stamp for what is filled with them.
    pub(crate) fn none(draw: Option<Draw>) -> Self {
        Self { tickets: Tickets::new(), draw, home: None }
    }

    fn push(&mut self, place: usize, ticket: Ticket) {
        self.tickets.push((place, ticket));
        if let Some((returns, key)) = &self.home {
            returns.begin_use(key, place, ticket);
        }
    }

    /// Returns the stamp for entries that are filled with these leases, if the first tiers need one.
    pub(crate) fn draw(&self) -> Option<Draw> {
        self.draw.clone()
    }

    /// Returns `true` if there is a lease of the tier of this place.
    pub(crate) fn has(&self, place: usize) -> bool {
        self.tickets.iter().any(|(of, _)| *of == place)
    }

    /// Returns the same leases for another user. They are returned to the store when no user needs
    /// them.
    pub(crate) fn share(&self) -> Self {
        let mut shared = Self { tickets: Tickets::new(), draw: self.draw.clone(), home: self.home.clone() };
        for (place, ticket) in &self.tickets {
            shared.push(*place, *ticket);
        }
        shared
    }

    /// Replaces the lease of a tier by that of a claim, which its holder returns.
    pub(crate) fn claimed(&mut self, place: usize, ticket: Ticket) {
        self.remove(|of| of == place);
        self.tickets.push((place, ticket));
    }

    /// Takes the tickets, to be used: a fill replaces the marker.
    pub(crate) fn take(&mut self) -> Tickets {
        self.take_above(usize::MAX)
    }

    /// As [`take`](Self::take), those of the tiers above this place alone.
    pub(crate) fn take_above(&mut self, place: usize) -> Tickets {
        let taken = self.tickets.iter().copied().filter(|(of, _)| *of < place).collect();
        self.remove(|of| of < place);
        taken
    }

    /// Removes the tickets of these tiers without returning them.
    fn remove(&mut self, is_removed: impl Fn(usize) -> bool) {
        let home = &self.home;
        self.tickets.retain(|(place, ticket)| {
            if is_removed(*place)
                && let Some((returns, key)) = home
            {
                returns.end_use(key, *place, *ticket, true);
            }
            !is_removed(*place)
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
        if let Some((returns, key)) = &self.home {
            for (place, ticket) in &self.tickets {
                returns.end_use(key, *place, *ticket, false);
            }
        }
    }
}

/// Returns leases in the background, if any tier needs that.
pub(crate) struct LeaseReturns {
    /// `None` if the leases of no tier leave markers.
    returns: Option<Arc<Returns>>,
    /// The number of queued leases that have been handled.
    handled: watch::Receiver<u64>,
}

impl LeaseReturns {
    /// Spawns the task that returns leases.
    pub(crate) fn start<V>(tiers: &Arc<[Tier<V>]>, runtime: &RuntimeHandle) -> Self
    where
        V: Clone + Send + Sync + 'static,
    {
        let (count, handled) = watch::channel(0);
        let returns = Returns::of(tiers);
        if let Some(returns) = &returns {
            runtime.spawn(run(Arc::clone(returns), Arc::clone(tiers), count));
        }
        Self { returns, handled }
    }

    /// Adds a lease to those of its key.
    pub(crate) fn add(&self, leases: &mut Leases, key: &Key, place: usize, ticket: Ticket) {
        if leases.home.is_none() {
            let returns = self.returns.as_ref().filter(|returns| returns.markers[place]);
            leases.home = returns.map(|returns| (Arc::clone(returns), key.clone()));
        }
        leases.push(place, ticket);
    }

    /// Returns `true` if there are so many leases to return that lookups should take no more of
    /// them. Otherwise lookups that find nothing could take leases faster than they can be
    /// returned, and fill the store with markers.
    pub(crate) fn are_behind(&self) -> bool {
        self.returns.as_ref().is_some_and(|returns| {
            let state = returns.state();
            state.held.len() >= ENOUGH || state.bytes >= LIMIT.1 / 2
        })
    }

    /// Waits until all leases that are queued now have been returned. If the task has ended, they
    /// expire.
    pub(crate) async fn wait(&self) {
        if let Some(returns) = &self.returns {
            let end = returns.state().queued;
            let _ = self.handled.clone().wait_for(|handled| *handled >= end).await;
        }
    }
}

impl Drop for LeaseReturns {
    fn drop(&mut self) {
        if let Some(returns) = &self.returns {
            returns.close();
        }
    }
}

/// The leases in use, and those to be returned.
pub(crate) struct Returns {
    /// For each tier, whether its leases leave markers.
    markers: Box<[bool]>,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    /// Users of one key share a marker. It is returned when no user is left.
    held: HashMap<(Key, usize), Held>,
    /// In the order in which their last users ended. Some may be in use again.
    idle: VecDeque<(Key, usize)>,
    /// The bytes of the keys in `idle`.
    bytes: usize,
    /// The number of leases that were ever added to `idle`.
    queued: u64,
    closed: bool,
}

struct Held {
    ticket: Ticket,
    users: usize,
}

/// The most leases that wait to be returned, and the most bytes of their keys. Further markers
/// expire.
const LIMIT: (usize, usize) = (65_536, 16 << 20);

/// From how many leases on, in use or waiting, lookups take none. A single lookup of many keys may
/// exceed it, for which [`LIMIT`] leaves room.
const ENOUGH: usize = 16_384;

/// The largest batch of leases that one call returns, and its bytes of keys, give or take one key.
/// The calls follow one another, so small batches would return leases more slowly than a busy chain
/// takes them.
const BATCH: (usize, usize) = (4096, 4 << 20);

impl State {
    /// The length of the next batch.
    fn next_batch(&self) -> usize {
        let mut bytes = 0;
        for (count, (key, _)) in self.idle.iter().take(BATCH.0).enumerate() {
            if bytes >= BATCH.1 {
                return count;
            }
            bytes += key.as_bytes().len();
        }
        self.idle.len().min(BATCH.0)
    }
}

impl Returns {
    /// Returns `None` if the leases of no tier leave markers.
    fn of<V: Clone + Send + Sync + 'static>(tiers: &[Tier<V>]) -> Option<Arc<Self>> {
        let markers: Box<[bool]> = tiers.iter().map(Tier::has_markers).collect();
        let any = markers.contains(&true);
        any.then(|| Arc::new(Self { markers, state: Mutex::default(), ready: Notify::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn begin_use(&self, key: &Key, place: usize, ticket: Ticket) {
        if !self.markers[place] || ticket.version().is_none() {
            return;
        }
        let mut state = self.state();
        let held = state.held.entry((key.clone(), place)).or_insert(Held { ticket, users: 0 });
        if held.ticket == ticket {
            held.users += 1;
        } else {
            // The old marker was replaced.
            *held = Held { ticket, users: 1 };
        }
    }

    fn end_use(&self, key: &Key, place: usize, ticket: Ticket, is_used: bool) {
        if !self.markers[place] {
            return;
        }
        let mut state = self.state();
        let State { held, idle, bytes, queued, closed } = &mut *state;
        let of = (key.clone(), place);
        let Some(users) = held.get_mut(&of).filter(|held| held.ticket == ticket).map(|held| &mut held.users) else {
            return;
        };
        *users = users.saturating_sub(1);
        // A lease that one user has used is no marker any more, so the other users need not return
        // it.
        let is_full = idle.len() >= LIMIT.0 || *bytes >= LIMIT.1;
        if is_used || *closed || (*users == 0 && is_full) {
            held.remove(&of);
            return;
        }
        if *users > 0 {
            return;
        }
        *queued += 1;
        *bytes += key.as_bytes().len();
        idle.push_back(of);
        drop(state);
        self.ready.notify_one();
    }

    /// Returns no more leases.
    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.idle.clear();
        state.bytes = 0;
        drop(state);
        self.ready.notify_one();
    }

    /// Waits for the next leases to return. Returns them and the number of queue entries that they
    /// were taken from, or `None` when closed.
    async fn next(&self) -> Option<(Vec<(usize, Key, Ticket)>, u64)> {
        loop {
            {
                let mut state = self.state();
                if state.closed {
                    return None;
                }
                let count = state.next_batch();
                if count > 0 {
                    let State { held, idle, bytes, .. } = &mut *state;
                    let mut released = Vec::with_capacity(count);
                    for of in idle.drain(..count) {
                        *bytes -= of.0.as_bytes().len();
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

/// Returns leases until closed. Reports through `handled` how many.
async fn run<V: Clone + Send + Sync + 'static>(
    returns: Arc<Returns>,
    tiers: Arc<[Tier<V>]>,
    handled: watch::Sender<u64>,
) {
    while let Some((released, count)) = returns.next().await {
        for (place, tier) in tiers.iter().enumerate() {
            let of_tier = released.iter().filter(|(at, ..)| *at == place);
            let leases: Vec<(Key, Ticket)> = of_tier.map(|(_, key, ticket)| (key.clone(), *ticket)).collect();
            if !leases.is_empty() {
                // If this fails, they expire.
                let _ = caught(tier.release_leases(&leases)).await;
            }
        }
        handled.send_modify(|handled| *handled += count);
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use cache_core::testkit::block_on;

    use super::*;

    fn returns() -> Arc<Returns> {
        Arc::new(Returns { markers: Box::new([false, true]), state: Mutex::default(), ready: Notify::new() })
    }

    fn leased(returns: &Arc<Returns>, name: &str, version: u64) -> Leases {
        let home = Some((Arc::clone(returns), Key::new(name).unwrap()));
        let mut leases = Leases { tickets: Tickets::new(), draw: None, home };
        leases.push(0, Ticket::at(version));
        leases.push(1, Ticket::at(version));
        leases
    }

    /// The versions of the leases that are returned.
    fn returned(returns: &Returns) -> Vec<u64> {
        if returns.state().idle.is_empty() {
            return Vec::new();
        }
        let (given, _) = block_on(returns.next()).unwrap();
        given.into_iter().map(|(place, _, ticket)| (place == 1).then_some(ticket).unwrap().version().unwrap()).collect()
    }

    #[test]
    fn the_last_user_returns_a_lease() {
        let returns = returns();
        let (one, two) = (leased(&returns, "k", 1), leased(&returns, "k", 1));
        let three = one.share();
        drop((one, two));
        assert!(returned(&returns).is_empty());
        drop(three);
        assert_eq!(returned(&returns), [1]);
        assert!(returns.state().held.is_empty());
    }

    #[test]
    fn a_lease_that_is_taken_again_is_not_returned() {
        let returns = returns();
        drop(leased(&returns, "k", 1));
        let again = leased(&returns, "k", 1);
        assert!(returned(&returns).is_empty());
        drop(again);
        assert_eq!(returned(&returns), [1]);
        // Another marker has come in its place.
        let old = leased(&returns, "k", 1);
        let new = leased(&returns, "k", 2);
        drop(old);
        assert!(returned(&returns).is_empty());
        drop(new);
        assert_eq!(returned(&returns), [2]);
    }

    #[test]
    fn what_is_used_or_claimed_is_not_returned() {
        let returns = returns();
        let (mut filled, other) = (leased(&returns, "k", 1), leased(&returns, "k", 1));
        assert_eq!(filled.take().len(), 2);
        drop((filled, other));
        let mut above = leased(&returns, "m", 5);
        assert_eq!(above.take_above(1).as_slice(), [(0, Ticket::at(5))]);
        drop(above);
        assert_eq!(returned(&returns), [5], "the others are");
        let mut claimed = leased(&returns, "l", 3);
        claimed.claimed(1, Ticket::at(4));
        assert!(claimed.contains(&(1, Ticket::at(4))) && claimed.contains(&(0, Ticket::at(3))));
        drop(claimed);
        assert!(returned(&returns).is_empty() && returns.state().held.is_empty());
    }

    /// Lookups take no leases while as many wait to be returned, or so many bytes of their keys.
    #[test]
    fn returns_are_behind_from_a_number_and_from_half_of_the_bytes_on() {
        let behind_after = |most: usize, name: &dyn Fn(usize) -> String| {
            let returns = LeaseReturns { returns: Some(returns()), handled: watch::channel(0).1 };
            let add = |at| drop(leased(returns.returns.as_ref().unwrap(), &name(at), 1));
            (0..=most).find(|at| {
                returns.are_behind() || {
                    add(*at);
                    false
                }
            })
        };
        assert_eq!(behind_after(ENOUGH, &|at| at.to_string()), Some(ENOUGH));
        let large = |at: usize| format!("{at:0>32768}{at:0>32768}");
        assert_eq!(behind_after(ENOUGH, &large), Some(LIMIT.1 / 2 / 65536));
    }

    #[test]
    fn the_queue_and_its_batches_are_bounded() {
        let returns = returns();
        (0..LIMIT.0 + 10).for_each(|at| drop(leased(&returns, &at.to_string(), 1)));
        let idle = returns.state().idle.len();
        assert_eq!((idle, returns.state().held.len()), (LIMIT.0, LIMIT.0));
        (0..16).for_each(|_| assert_eq!(returned(&returns).len(), LIMIT.0 / 16));
        (0..1000).for_each(|at| drop(leased(&returns, &format!("{at:0>32768}{at:0>32768}"), 1)));
        let state = returns.state();
        assert_eq!((state.idle.len(), state.held.len(), state.bytes), (256, 256, LIMIT.1));
        drop(state);
        (0..4).for_each(|_| assert_eq!(returned(&returns).len(), 64));
        assert_eq!(returns.state().bytes, 0);
        returns.close();
        assert!(block_on(returns.next()).is_none());
        drop(leased(&returns, "k", 1));
        assert!(returns.state().idle.is_empty());
    }
}
