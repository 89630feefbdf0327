//! How replicas become primaries.

use std::time::{Duration, Instant};

use super::RedisCluster;

/// The time after which a server gives a manual failover up, and somewhat more.
const GIVEN_UP: Duration = Duration::from_secs(6);

impl RedisCluster {
    /// Makes a replica the primary, in agreement with its primary, which becomes a replica
    /// (`CLUSTER FAILOVER`). Waits as [`wait_until_primary`](Self::wait_until_primary). No write is lost.
    pub async fn fail_over(&self, replica: usize) {
        self.command(replica, &["CLUSTER", "FAILOVER"]);
        let mut asked = Instant::now();
        let is_done = || {
            // On a busy machine a failover may take too long, and is given up.
            if asked.elapsed() > GIVEN_UP {
                asked = Instant::now();
                // It is an error if the replica is the primary by now.
                self.answer(replica, &["CLUSTER", "FAILOVER"]);
            }
            self.is_primary(replica)
        };
        self.wait(&format!("a failover to node {replica}"), is_done).await;
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
        self.wait(&format!("node {index} as a primary"), || self.is_primary(index)).await;
    }

    /// Returns something if all nodes that run agree that this one is a primary with slots.
    fn is_primary(&self, index: usize) -> Option<()> {
        let serves = |&index: &usize| self.serves(index);
        (self.agreed_owners()?.contains(&index) && self.running().iter().all(serves)).then_some(())
    }
}
