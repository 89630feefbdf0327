//! Loads that run without a permit of their own.
//!
//! A load that runs lends its permit to the loads of its chain that it waits for, directly or
//! through others. A load of another chain needs a permit of that chain, so that the bound of that
//! chain holds.
//!
//! Chains whose loads wait for each other are the exception, because each may hold the permits that
//! the other needs. The links between chains show them: a load that runs waits for a load that is
//! queued in another chain. A link that closes a cycle of chains admits all queued loads on the
//! cycle. Without a cycle there is a chain among those that are linked whose loads wait for no
//! queue but their own, so its permits become free.
//!
//! Links exist only while loads are queued, so nothing is kept of chains that are dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{ChainId, Graph, Node, current, graph};

/// The permits that a flight may use of the loads that wait for it.
#[derive(Default)]
pub(super) struct Lent {
    /// The chains of which they hold a permit.
    pub(super) passes: Vec<ChainId>,
    /// `true` if the flight waits for a permit.
    is_queued: bool,
}

/// The queued loads that a load of another chain waits for: by the chain of the load that waits and
/// has a permit, and by their own. No cycle of chains is left here.
pub(super) struct Links(BTreeMap<(ChainId, ChainId), BTreeMap<u64, Arc<Node>>>);

impl Links {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds a queued load that loads of these chains wait for.
    fn add(&mut self, load: &Arc<Node>, lenders: &[ChainId]) {
        for &lender in lenders {
            if !load.lent().is_queued {
                // The link before has closed a cycle.
                return;
            }
            let loads = self.0.entry((lender, load.chain)).or_default();
            let is_new = loads.is_empty();
            loads.insert(load.id, Arc::clone(load));
            if is_new {
                self.admit_cycle(lender, load.chain);
            }
        }
    }

    /// Admits all loads on the cycles that this link is a part of.
    fn admit_cycle(&mut self, from: ChainId, to: ChainId) {
        let after =
            reached(to, |chain| self.0.range((chain, ChainId::MIN)..=(chain, ChainId::MAX)).map(|(link, _)| link.1));
        if !after.contains(&from) {
            return;
        }
        let before = reached(from, |chain| self.0.keys().filter(move |link| link.1 == chain).map(|link| link.0));
        let is_on_cycle = |chain| after.contains(chain) && before.contains(chain);
        let links = self.0.iter().filter(|((from, to), _)| is_on_cycle(from) && is_on_cycle(to));
        let admitted: Vec<Arc<Node>> = links.flat_map(|(_, loads)| loads.values().cloned()).collect();
        for load in admitted {
            self.admit(&load);
        }
    }

    fn admit(&mut self, flight: &Node) {
        self.remove(flight);
        flight.passed.notify_one();
    }

    fn remove(&mut self, flight: &Node) {
        let lenders = flight.lent().leave_queue();
        for lender in lenders {
            let link = (lender, flight.chain);
            let Some(loads) = self.0.get_mut(&link) else { continue };
            loads.remove(&flight.id);
            if loads.is_empty() {
                self.0.remove(&link);
            }
        }
    }
}

impl Lent {
    /// Returns the chains whose links the flight may be a part of.
    fn leave_queue(&mut self) -> Vec<ChainId> {
        self.is_queued = false;
        self.passes.clone()
    }
}

/// All chains on the paths from this one, itself included.
fn reached<I: Iterator<Item = ChainId>>(start: ChainId, next: impl Fn(ChainId) -> I) -> BTreeSet<ChainId> {
    let (mut reached, mut rest) = (BTreeSet::new(), vec![start]);
    while let Some(chain) = rest.pop() {
        if reached.insert(chain) {
            rest.extend(next(chain));
        }
    }
    reached
}

/// Lends permits of these chains to the flight and to all that it waits for. Each flight is visited
/// once per chain.
pub(super) fn pass_on(graph: &mut Graph, to: &Arc<Node>, passes: Vec<ChainId>) {
    let mut rest = vec![(Arc::clone(to), passes)];
    while let Some((node, mut passes)) = rest.pop() {
        let is_queued = {
            let mut lent = node.lent();
            passes.retain(|chain| !lent.passes.contains(chain));
            lent.passes.extend(&passes);
            lent.is_queued
        };
        if passes.is_empty() {
            continue;
        }
        if passes.contains(&node.chain) {
            graph.links.admit(&node);
        } else if is_queued {
            graph.links.add(&node, &passes);
        }
        if let Some(targets) = graph.waits.get(&node.id) {
            rest.extend(targets.iter().map(|target| (Arc::clone(target), passes.clone())));
        }
    }
}

/// Waits until the load of the current flight may run: it has a permit, or a load that holds one
/// waits for it.
pub(crate) async fn admission(permits: &Semaphore) -> Option<SemaphorePermit<'_>> {
    // The semaphore is never closed.
    let Some(current) = current() else { return permits.acquire().await.ok() };
    let permit = {
        let mut passed = pin!(current.passed.notified());
        let mut permit = pin!(permits.acquire());
        let mut place = None;
        poll_fn(|context| {
            if passed.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            let permit = permit.as_mut().poll(context).map(Result::ok);
            if permit.is_pending() && place.is_none() {
                place = Some(Place::take(&current));
            }
            permit
        })
        .await
    };
    current.is_admitted.store(true, Ordering::Release);
    permit
}

/// The place of a load in the queue for a permit. It leaves when this is dropped.
struct Place<'a>(&'a Node);

impl<'a> Place<'a> {
    fn take(load: &'a Arc<Node>) -> Self {
        let lenders = {
            let mut lent = load.lent();
            lent.is_queued = true;
            lent.passes.clone()
        };
        // Permits that are lent after this are added to the links by the lender.
        if !lenders.is_empty() {
            graph().links.add(load, &lenders);
        }
        Self(load)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // The graph is not locked for a load that is not nested.
        let is_nested = !self.0.lent().leave_queue().is_empty();
        if is_nested {
            graph().links.remove(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Waker},
    };

    use super::{super::scope, *};

    /// A load that asks for a permit.
    struct Asking<'a> {
        node: Arc<Node>,
        admission: Pin<Box<dyn Future<Output = Option<SemaphorePermit<'a>>> + 'a>>,
    }

    impl<'a> Asking<'a> {
        fn new(chain: ChainId, permits: &'a Semaphore) -> Self {
            let node = Arc::new(Node::new(chain, None));
            Self { admission: Box::pin(scope(Arc::clone(&node), admission(permits))), node }
        }

        fn poll(&mut self) -> Poll<Option<SemaphorePermit<'a>>> {
            self.admission.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }

        fn is_admitted(&mut self) -> bool {
            self.poll().is_ready()
        }
    }

    /// A load of this chain, which has a permit, waits for the other one.
    fn lend(from: ChainId, to: &Asking<'_>) {
        pass_on(&mut graph(), &to.node, vec![from]);
    }

    fn is_linked(from: ChainId, to: ChainId) -> bool {
        graph().links.0.contains_key(&(from, to))
    }

    #[test]
    fn a_load_that_a_load_of_its_chain_waits_for_takes_no_permit() {
        let (one, two, permits) = (ChainId::new(), ChainId::new(), Semaphore::new(1));
        let mut load = Asking::new(one, &permits);
        pass_on(&mut graph(), &load.node, vec![two, one]);
        assert!(matches!(load.poll(), Poll::Ready(None)));
    }

    #[test]
    fn a_link_ends_when_its_load_has_a_permit() {
        let ([one, two, three], permits) = ([ChainId::new(), ChainId::new(), ChainId::new()], Semaphore::new(0));
        let mut load = Asking::new(two, &permits);
        lend(one, &load);
        assert!(!is_linked(one, two), "there may be a permit");
        assert!(!load.is_admitted() && is_linked(one, two));
        permits.add_permits(1);
        assert!(load.is_admitted() && !is_linked(one, two));
        // It does not wait any more.
        lend(three, &load);
        assert!(!is_linked(three, two));
    }

    #[test]
    fn the_links_of_a_load_end_when_it_is_dropped() {
        let ([one, two, three], permits) = ([ChainId::new(), ChainId::new(), ChainId::new()], Semaphore::new(0));
        let mut load = Asking::new(two, &permits);
        assert!(!load.is_admitted());
        lend(one, &load);
        lend(three, &load);
        assert!(is_linked(one, two) && is_linked(three, two));
        drop(load);
        assert!(!is_linked(one, two) && !is_linked(three, two));
    }

    #[test]
    fn a_cycle_of_links_admits_its_loads_and_no_others() {
        let ([one, two, three], permits) = ([ChainId::new(), ChainId::new(), ChainId::new()], Semaphore::new(0));
        let mut loads = [one, two, three, one].map(|chain| Asking::new(chain, &permits));
        assert!(loads.iter_mut().all(|load| !load.is_admitted()));
        lend(one, &loads[1]);
        lend(one, &loads[2]);
        assert!(loads.iter_mut().all(|load| !load.is_admitted()));
        // One and two wait for each other.
        lend(two, &loads[0]);
        assert!(!is_linked(one, two) && !is_linked(two, one) && is_linked(one, three));
        let [of_one, of_two, of_three, other_of_one] = &mut loads;
        assert!(of_one.is_admitted() && of_two.is_admitted());
        assert!(!of_three.is_admitted() && !other_of_one.is_admitted());
        // One and three do. The load is admitted before the second of its links is added.
        pass_on(&mut graph(), &other_of_one.node, vec![three, two]);
        assert!(!is_linked(one, three) && !is_linked(three, one) && !is_linked(two, one));
        assert!(of_three.is_admitted() && other_of_one.is_admitted());
    }
}
