//! What invalidation streams and `clear` ask of all primaries.

use std::sync::{Arc, Weak};

use cache_core::{Result, backend::lock};
use futures_util::future::join_all;
use redis::cmd;
use tokio::time::Instant;

use super::{
    Cluster, host_of,
    slot_reports::{self, SlotReport},
    watch::Watch,
};
use crate::connection::{call::Call, error, node::Node, redirection::Address, reply::text};

impl Cluster {
    /// Returns all primaries with slots, and what they say of them.
    ///
    /// # Errors
    ///
    /// Returns the error of a node.
    pub(crate) async fn layout(&self) -> Result<Layout> {
        let started = Instant::now();
        self.read_slots(started).await?;
        let primaries = self.owners();
        let reports = join_all(primaries.iter().map(async |node| {
            let [mut info, mut nodes] = [cmd("CLUSTER"), cmd("CLUSTER")];
            info.arg("INFO");
            nodes.arg("NODES");
            let call = Call::since(node, started);
            SlotReport::parse(call.ask(0, info).await?, call.ask(0, nodes).await?)
        }));
        let reports = reports.await.into_iter().collect::<Result<_>>()?;
        Ok(Layout { primaries, reports })
    }

    /// Returns the primaries that hold no slots: one may be about to receive some.
    ///
    /// # Errors
    ///
    /// Returns the error of asking a node.
    async fn idle_primaries(&self, primary: &Arc<Node>, started: Instant) -> Result<Vec<Arc<Node>>> {
        let mut nodes = cmd("CLUSTER");
        nodes.arg("NODES");
        let reply = Call::since(primary, started).ask(0, nodes).await?;
        let reply = text(&reply).ok_or_else(error::unexpected)?;
        let idle: Vec<Arc<Node>> = {
            let mut state = lock(&self.state);
            let is_known = |address: &Address| state.members.iter().any(|member| member.address == *address);
            let idle = slot_reports::idle_primaries(&reply, is_known);
            let own_host = host_of(primary.address());
            let mut place = |address: Address| self.member(&mut state, &address.or_host(&own_host));
            let places = idle.into_iter().map(&mut place).collect::<Result<Vec<usize>>>()?;
            places.into_iter().map(|at| Arc::clone(&state.members[at].node)).collect()
        };
        // One that cannot be reached must not hold up the stream: nothing is proven once it gets slots.
        let ping = async |node| Call::since(node, started).ask(0, cmd("PING")).await;
        let answers = join_all(idle.iter().map(ping)).await;
        Ok(idle.into_iter().zip(answers).filter(|(_, answer)| answer.is_ok()).map(|(node, _)| node).collect())
    }

    /// Starts a watch over all primaries, with and without slots; see [`Watch`].
    ///
    /// # Errors
    ///
    /// Returns the error of reading the slots.
    pub(crate) async fn watch_all(&self, started: Instant) -> Result<Arc<Watch>> {
        self.read_slots(started).await?;
        let mut nodes = self.owners();
        let first = nodes.first().ok_or_else(|| error::unowned(0))?;
        let idle = self.idle_primaries(first, started).await?;
        nodes.extend(idle);
        Ok(self.watch(nodes))
    }

    /// Starts a watch over these nodes; see [`Watch`].
    fn watch(&self, nodes: Vec<Arc<Node>>) -> Arc<Watch> {
        let watch = Arc::new(Watch::new(nodes));
        let mut watches = lock(&self.watches);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&watch));
        watch
    }

    pub(super) fn is_watched(&self, node: &Arc<Node>) -> bool {
        lock(&self.watches).iter().filter_map(Weak::upgrade).any(|watch| watch.has(node))
    }

    /// Tells the watches that calls go to this node.
    pub(super) fn tell_watches(&self, node: &Arc<Node>) {
        for watch in lock(&self.watches).iter().filter_map(Weak::upgrade) {
            watch.notice(node);
        }
    }
}

/// The primaries with slots, and what they say of them.
pub(crate) struct Layout {
    pub(crate) primaries: Vec<Arc<Node>>,
    pub(crate) reports: Vec<SlotReport>,
}

impl Layout {
    /// Returns `true` if these nodes hold all slots that are held, and none is on its way to another.
    pub(crate) fn is_stable(&self) -> bool {
        let reports: Vec<&SlotReport> = self.reports.iter().collect();
        reports.iter().all(|report| report.is_stable() && report.knows_no_holder_but(&reports))
    }
}
