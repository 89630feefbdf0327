//! How servers become a cluster, and new nodes join it.

use super::RedisCluster;
use crate::redis_server::RedisServer;

/// The number of hash slots that every cluster has.
pub(super) const SLOTS: usize = 16_384;

/// The settings of each node. Other nodes and failures are noticed quickly, and a replica may
/// be elected however old its data is.
const ARGUMENTS: [&str; 12] = [
    "--cluster-enabled",
    "yes",
    "--cluster-port",
    "{free_port}",
    "--cluster-announce-ip",
    "127.0.0.1",
    "--cluster-node-timeout",
    "1000",
    "--cluster-replica-validity-factor",
    "0",
    "--repl-diskless-sync-delay",
    "0",
];

impl RedisCluster {
    /// Starts three primaries, the nodes 0 to 2, and a replica of each, the nodes 3 to 5.
    pub async fn start() -> Self {
        Self::start_with(3, 1, &[]).await
    }

    /// Starts primaries, to each of them this many replicas, and waits until all of them serve. The primaries
    /// have the first indexes, and share the slots evenly in their order. The replica of the primary `i`
    /// is the node `primaries + i`, a second one is `2 * primaries + i`.
    ///
    /// Each server gets the additional arguments, as by [`RedisServer::start_with`]: `{dir}` is its
    /// directory, `{free_port}` a free port. The harness logs in as the default user, which must have no
    /// password and all permissions.
    pub async fn start_with(primaries: usize, replicas_per_primary: usize, arguments: &[&str]) -> Self {
        let mut cluster = Self { nodes: Vec::new(), ids: Vec::new(), arguments: Vec::new() };
        cluster.arguments = ARGUMENTS.iter().chain(arguments).map(|&argument| argument.to_owned()).collect();
        cluster.start_nodes(primaries * (1 + replicas_per_primary)).await;
        cluster.assign_slots(primaries);
        for index in 0..cluster.nodes.len() {
            cluster.introduce(index, 0..index);
        }
        cluster.wait_until_introduced().await;
        for replica in primaries..cluster.nodes.len() {
            let primary = cluster.node_id(replica % primaries);
            cluster.command(replica, &["CLUSTER", "REPLICATE", primary]);
        }
        cluster.wait_until_whole().await;
        cluster
    }

    /// Lets an empty primary join the cluster. Returns its index.
    pub async fn add_node(&mut self) -> usize {
        let index = self.nodes.len();
        self.start_nodes(1).await;
        self.introduce(index, (0..index).filter(|&known| self.nodes[known].is_running()));
        self.wait_until_whole().await;
        index
    }

    /// Starts this many servers at once. They do not know each other.
    async fn start_nodes(&mut self, count: usize) {
        let start = || {
            let arguments = self.arguments.clone();
            tokio::spawn(async move {
                RedisServer::start_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
            })
        };
        let starting: Vec<_> = (0..count).map(|_| start()).collect();
        for node in starting {
            let node = node.await.expect("a node");
            self.ids.push(node.cli(&["CLUSTER", "MYID"]));
            self.nodes.push(node);
        }
    }

    /// Shares the slots among the first nodes, and gives each node an epoch of its own, without which
    /// primaries would have to agree on one first.
    fn assign_slots(&self, primaries: usize) {
        for index in 0..self.nodes.len() {
            self.command(index, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for index in 0..primaries {
            let first = index * SLOTS / primaries;
            let last = (index + 1) * SLOTS / primaries - 1;
            self.command(index, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
    }

    /// Makes a node known to others, and them to it.
    fn introduce(&self, index: usize, others: impl Iterator<Item = usize>) {
        for other in others {
            let port = self.port_for_nodes(other);
            let bus = self.nodes[other].setting("cluster-port");
            self.command(index, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
    }
}
