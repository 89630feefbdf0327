//! How replicas become primaries.

use super::RedisCluster;

impl RedisCluster {
    /// Makes a replica the primary, in agreement with its primary, which becomes a replica
    /// (`CLUSTER FAILOVER`). Waits as [`wait_until_primary`](Self::wait_until_primary). No write is lost.
    pub async fn fail_over(&self, replica: usize) {
        self.command(replica, &["CLUSTER", "FAILOVER"]);
        self.wait_until_primary(replica).await;
    }

    /// Makes a replica the primary without asking any other node (`CLUSTER FAILOVER TAKEOVER`): its primary
    /// may be dead, and so may be most of the cluster. Waits as
    /// [`wait_until_primary`](Self::wait_until_primary).
    pub async fn take_over(&self, replica: usize) {
        self.command(replica, &["CLUSTER", "FAILOVER", "TAKEOVER"]);
        self.wait_until_primary(replica).await;
    }

    /// Waits until a node is a primary with slots, and all nodes that run agree on the owners of all slots and
    /// serve them. The replicas may not have the data yet, see
    /// [`wait_until_whole`](Self::wait_until_whole).
    pub async fn wait_until_primary(&self, index: usize) {
        let is_known = || {
            let knows = |&index: &usize| self.serves(index);
            (self.agreed_owners()?.contains(&index) && self.running().iter().all(knows)).then_some(())
        };
        self.wait(&format!("node {index} as a primary"), is_known).await;
    }
}
