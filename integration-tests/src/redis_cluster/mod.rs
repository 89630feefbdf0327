//! A Redis Cluster that a test has for itself.
//!
//! - `formation`: how servers become a cluster, and new nodes join it;
//! - `view`: what a node knows of the cluster;
//! - `state`: what the nodes agree on, and how to wait for it;
//! - `slots`: how slots move between primaries;
//! - `failover`: how replicas become primaries.

mod failover;
mod formation;
mod slots;
mod state;
mod view;

use crate::redis_server::RedisServer;

/// A Redis Cluster on free ports of the loopback, each node in a directory of its own. It ends with
/// this value.
///
/// Nodes are known by their index, which they keep: a node that was killed, demoted or promoted is
/// still the same one.
///
/// Methods that wait panic after 30 s, with what each node knows of the cluster.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    ids: Vec<String>,
    arguments: Vec<String>,
}

impl RedisCluster {
    /// Returns the nodes.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Returns the nodes, to kill or restart them.
    pub fn nodes_mut(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }

    /// Returns a node.
    pub fn node(&self, index: usize) -> &RedisServer {
        &self.nodes[index]
    }

    /// Returns the id by which the nodes know this one.
    pub fn node_id(&self, index: usize) -> &str {
        &self.ids[index]
    }

    /// Returns the URLs of all nodes, without TLS.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    /// Returns the URLs of all nodes with TLS: `rediss://127.0.0.1:<port>/`.
    ///
    /// # Panics
    ///
    /// Panics if a node does not run.
    pub fn tls_urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("rediss://127.0.0.1:{}/", node.setting("tls-port"))).collect()
    }

    /// Suspends a node, as a server that hangs (`SIGSTOP`). The others notice it after their
    /// `cluster-node-timeout`.
    pub fn stop(&self, index: usize) {
        self.nodes[index].stop();
    }

    /// Resumes a node after [`stop`](Self::stop).
    pub fn resume(&self, index: usize) {
        self.nodes[index].resume();
    }

    /// Kills a node (`SIGKILL`).
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// Starts a node again after [`kill`](Self::kill), without its data. It knows the cluster still, and
    /// joins it as a replica if another node has got its slots. If none has, it serves them empty.
    pub fn restart(&mut self, index: usize) {
        self.nodes[index].restart();
    }

    /// Returns the port at which other nodes reach this one.
    fn port_for_nodes(&self, index: usize) -> String {
        let node = &self.nodes[index];
        node.setting(if node.setting("tls-cluster") == "yes" { "tls-port" } else { "port" })
    }

    /// Sends a command that returns OK.
    fn command(&self, index: usize, arguments: &[&str]) {
        let reply = self.nodes[index].cli(arguments);
        assert_eq!(reply, "OK", "node {index} replies to {arguments:?}; {}", self.report());
    }
}
