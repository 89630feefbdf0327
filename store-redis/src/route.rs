//! Finds the nodes of a cluster that hold the keys of a call, and follows their redirections.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cache_core::{Error, ErrorKind, Result};
use futures_util::{FutureExt as _, future::join_all};
use tokio::time::{Instant, sleep};

use crate::connection::{
    call::Call,
    cluster::Cluster,
    error::{self, is_unsent},
    node::Node,
    redirection::Redirection,
};

/// Which keys are asked for together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// All that one node holds.
    Node,
    /// Each by itself: a transaction of a cluster cannot have keys of several slots.
    Key,
}

/// The way of one call to the nodes that hold its keys.
pub(crate) struct Route<'a> {
    cluster: &'a Cluster,
    started: Instant,
}

/// The number of redirections in a row after which a call pauses before the next.
const AT_ONCE: u32 = 3;

/// The pause: the nodes are about to agree, or the key is about to arrive.
const PAUSE: Duration = Duration::from_millis(10);

/// An item that has no result yet.
struct Pending {
    /// Its place among the items.
    at: usize,
    slot: u16,
    /// The node that another one has named, and whether the key is on its way there.
    redirected: Option<(Arc<Node>, bool)>,
}

/// What to do for an item.
enum Step<T> {
    /// Ask for it again.
    Again(Pending),
    /// Return its result.
    Done(Result<T>),
}

/// Items that are asked for together.
struct Group {
    node: Arc<Node>,
    is_asking: bool,
    members: Vec<Pending>,
}

impl Group {
    fn call(&self, started: Instant) -> Call {
        let call = Call::since(&self.node, started);
        if self.is_asking { call.asking() } else { call }
    }
}

impl<'a> Route<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, started: Instant::now() }
    }

    /// Runs `work` on the node that holds the slot.
    pub(crate) async fn run_one<T, F>(&self, slot: u16, work: impl Fn(Call) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let work = |call, _| work(call).map(|result| Ok(vec![result]));
        let mut results = self.run(&[slot], |slot| *slot, Grouping::Node, work).await;
        results.pop().unwrap_or_else(|| Err(error::unexpected()))
    }

    /// Runs `work` on each node that holds some of the items, and again for those that a node
    /// redirects. Returns the results in the order of the items.
    ///
    /// A node that redirects a command has not run it, so nothing is done twice.
    pub(crate) async fn run<'k, K, T, F>(
        &self,
        items: &'k [K],
        slot_of: impl Fn(&K) -> u16,
        grouping: Grouping,
        work: impl Fn(Call, Vec<&'k K>) -> F,
    ) -> Vec<Result<T>>
    where
        F: Future<Output = Result<Vec<Result<T>>>>,
    {
        let mut results: Vec<Option<Result<T>>> = items.iter().map(|_| None).collect();
        let mut pending: Vec<Pending> =
            items.iter().enumerate().map(|(at, item)| Pending { at, slot: slot_of(item), redirected: None }).collect();
        let mut rounds = 0;
        while !pending.is_empty() {
            if rounds > AT_ONCE {
                sleep(PAUSE).await;
            }
            rounds += 1;
            let (groups, failed) = self.group(pending, grouping).await;
            for (at, error) in failed {
                results[at] = Some(Err(error));
            }
            let asked = groups.into_iter().map(|group| {
                let work = group.node.admit().map(|()| {
                    let asked = group.members.iter().map(|member| &items[member.at]).collect();
                    work(group.call(self.started), asked)
                });
                async move {
                    let answers = match work {
                        Ok(work) => work.await,
                        Err(refused) => Err(refused),
                    };
                    (group, answers)
                }
            });
            pending = Vec::new();
            for (group, answers) in join_all(asked).await {
                let count = group.members.len();
                let answers = answers.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect());
                for (member, answer) in group.members.into_iter().zip(answers) {
                    let at = member.at;
                    match self.step_after(answer, &group.node, member).await {
                        Step::Again(member) => pending.push(member),
                        Step::Done(result) => results[at] = Some(result),
                    }
                }
            }
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(error::unexpected()))).collect()
    }

    /// Returns the step after this answer of a node.
    async fn step_after<T>(&self, answer: Result<T>, from: &Arc<Node>, member: Pending) -> Step<T> {
        let Some(redirection) = Redirection::of(&answer) else {
            if !answer.as_ref().is_err_and(is_of_the_node) {
                return Step::Done(answer);
            }
            // Another one may have taken its place.
            self.cluster.read_slots_soon();
            if answer.as_ref().is_err_and(is_unsent) && self.is_replaced(from, member.slot).await {
                return Step::Again(Pending { redirected: None, ..member });
            }
            return Step::Done(answer);
        };
        if self.is_late() {
            return Step::Done(Err(error::not_found_in_time(member.slot)));
        }
        let redirected = match redirection {
            Redirection::Again => {
                self.cluster.read_slots_soon();
                member.redirected
            }
            Redirection::Moved { slot, to } => self.cluster.moved(*slot, to, from).map(|node| (node, false)),
            Redirection::Ask { to, .. } => self.cluster.receiver(to, from).map(|node| (node, true)),
        };
        Step::Again(Pending { at: member.at, slot: member.slot, redirected })
    }

    /// Returns `true` if another node holds the slot now, and there is time left to ask it.
    async fn is_replaced(&self, node: &Arc<Node>, slot: u16) -> bool {
        let is_read = self.cluster.wait_for_slots(self.started).await.is_ok();
        is_read && !self.is_late() && !self.cluster.holds(node, slot)
    }

    fn is_late(&self) -> bool {
        self.started.elapsed() + PAUSE >= self.cluster.timeout()
    }

    /// Groups items by the nodes that hold them. Also returns the places of those for which no node is
    /// known, with the error.
    async fn group(&self, pending: Vec<Pending>, grouping: Grouping) -> (Vec<Group>, Vec<(usize, Error)>) {
        let (mut groups, mut failed) = (BTreeMap::<_, Group>::new(), Vec::new());
        for member in pending {
            let found = match &member.redirected {
                Some((node, is_asking)) => Ok((Arc::clone(node), *is_asking)),
                None => self.cluster.node_of(member.slot, self.started).await.map(|node| (node, false)),
            };
            match found {
                Ok((node, is_asking)) => {
                    let alone = (grouping == Grouping::Key).then_some(member.at);
                    let group = groups.entry((Arc::as_ptr(&node) as usize, is_asking, alone));
                    group.or_insert_with(|| Group { node, is_asking, members: Vec::new() }).members.push(member);
                }
                Err(error) => failed.push((member.at, error)),
            }
        }
        (groups.into_values().collect(), failed)
    }
}

/// Returns `true` for an error of the node as a whole.
fn is_of_the_node(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::ReadOnly)
}
