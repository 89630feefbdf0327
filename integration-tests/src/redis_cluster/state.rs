//! The agreement of the nodes, and how to wait for it.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{
    RedisCluster,
    formation::SLOTS,
    view::{KnownNode, View},
};

impl RedisCluster {
    /// Returns the nodes that are primaries and have slots. A primary that was killed or stopped is among them
    /// until another node has got its slots.
    pub fn primaries(&self) -> Vec<usize> {
        let mut primaries: Vec<usize> = self.owners().into_iter().flatten().collect();
        primaries.sort_unstable();
        primaries.dedup();
        primaries
    }

    /// Returns the primary that has this slot.
    ///
    /// # Panics
    ///
    /// Panics if no node has it.
    pub fn owner_of(&self, slot: u16) -> usize {
        self.owners()[usize::from(slot)].unwrap_or_else(|| panic!("no node has slot {slot}; {}", self.report()))
    }

    /// Returns a replica of this primary that runs.
    ///
    /// # Panics
    ///
    /// Panics if it has none.
    pub fn replica_of(&self, primary: usize) -> usize {
        let id = Some(&self.ids[primary]);
        let is_replica = |&index: &usize| self.own_line(index).is_some_and(|line| line.primary.as_ref() == id);
        let replica = (0..self.nodes.len()).find(is_replica);
        replica.unwrap_or_else(|| panic!("node {primary} has no replica; {}", self.report()))
    }

    /// Waits until the nodes that run agree on the owners of all slots, serve them and reach each other, and
    /// each replica among them has the data of its primary. What was written before survives the primary.
    pub async fn wait_until_whole(&self) {
        self.wait("a whole cluster", || {
            let running = self.running();
            let serves =
                |&index: &usize| self.serves(index) && self.reaches(index, &running) && self.has_data_of_primary(index);
            self.agreed_owners()?;
            running.iter().all(serves).then_some(())
        })
        .await;
    }

    /// Waits until each node knows the others.
    pub(super) async fn wait_until_introduced(&self) {
        let running = self.running();
        let what = "an introduction of all nodes";
        self.wait(what, || running.iter().all(|&index| self.reaches(index, &running)).then_some(())).await;
    }

    /// Waits until `condition` returns something, and returns it.
    pub(super) async fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = condition() {
                return found;
            }
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "{what} did not come about within 30 s; {}",
                self.report()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the owner of each slot, if the nodes that run agree on them, and serve the slots.
    pub(super) fn agreed_owners(&self) -> Option<Vec<usize>> {
        let views: Vec<View> = self.nodes.iter().filter_map(View::of).collect();
        let mut owners = views.iter().map(|view| self.owners_by(view.nodes().iter()));
        let first = owners.next()?;
        owners.all(|other| other == first).then_some(())?;
        first.into_iter().collect()
    }

    /// Returns `true` if a node holds that the cluster can serve.
    pub(super) fn serves(&self, index: usize) -> bool {
        self.answer(index, &["CLUSTER", "INFO"]).is_some_and(|info| info.lines().any(|line| line == "cluster_state:ok"))
    }

    /// Returns the indexes of the nodes that run.
    pub(super) fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&index| self.nodes[index].is_running()).collect()
    }

    /// Returns what a node knows of itself, if it runs.
    pub(super) fn own_line(&self, index: usize) -> Option<KnownNode> {
        View::of(&self.nodes[index])?.into_own()
    }

    /// Returns what each node knows of the cluster.
    pub(super) fn report(&self) -> String {
        let mut report = "the nodes know:".to_owned();
        for (index, node) in self.nodes.iter().enumerate() {
            let view = self.answer(index, &["CLUSTER", "NODES"]).unwrap_or_else(|| "does not run".to_owned());
            let _ = write!(report, "\nnode {index}, port {}:\n{view}", node.port());
        }
        report
    }

    /// The reply of a node as text, if it runs and answers.
    pub(super) fn answer(&self, index: usize, arguments: &[&str]) -> Option<String> {
        let reply = self.nodes[index].answer(arguments)?.into_bytes();
        Some(String::from_utf8_lossy(&reply).into_owned())
    }

    /// Returns the owner of each slot as the nodes that run know them together.
    fn owners(&self) -> Vec<Option<usize>> {
        let views: Vec<View> = self.nodes.iter().filter_map(View::of).collect();
        self.owners_by(views.iter().flat_map(View::nodes))
    }

    /// Returns the owner of each slot. Of two nodes that have the same slot, it is the one of the later epoch,
    /// and what a node knows of itself counts for more than what others know of it.
    fn owners_by<'v>(&self, lines: impl Iterator<Item = &'v KnownNode>) -> Vec<Option<usize>> {
        let mut lines: Vec<_> = lines.collect();
        lines.sort_by_key(|line| (line.epoch, line.is_itself()));
        let mut owners = vec![None; SLOTS];
        for line in lines {
            let owner = self.ids.iter().position(|id| *id == line.id);
            for slot in line.slots.iter().cloned().flatten() {
                owners[usize::from(slot)] = owner;
            }
        }
        owners
    }

    /// Whether a node reaches all these nodes, and is in no handshake.
    fn reaches(&self, index: usize, others: &[usize]) -> bool {
        let Some(view) = View::of(&self.nodes[index]) else { return false };
        let is_reached = |&other: &usize| view.find(&self.ids[other]).is_some_and(KnownNode::is_reached);
        view.nodes().len() == self.nodes.len() && others.iter().all(is_reached)
    }

    /// Whether a node is a primary, or a replica that has the data of its primary.
    fn has_data_of_primary(&self, index: usize) -> bool {
        let Some(line) = self.own_line(index) else { return false };
        let primary = self.ids.iter().position(|id| line.primary.as_ref() == Some(id));
        line.is_primary() || primary.is_some_and(|primary| self.nodes[index].has_data_of(&self.nodes[primary]))
    }
}
