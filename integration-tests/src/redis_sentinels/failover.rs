//! How a replica becomes the primary.

use super::{NAME, RedisSentinels};

impl RedisSentinels {
    /// Lets a sentinel make a replica the primary (`SENTINEL FAILOVER`), and waits until all sentinels and
    /// servers that run follow it. Returns the new primary. The sentinel asks no other for consent; what
    /// the old primary is sent in between is lost.
    pub async fn fail_over(&self) -> usize {
        let old = self.primary();
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.is_running()).expect("a sentinel that runs");
        // A failover may still be going on, or what the sentinel knows of the replicas may be old.
        let begun = || (sentinel.cli(&["SENTINEL", "FAILOVER", NAME]) == "OK").then_some(());
        self.wait("the begin of a failover", begun).await;
        let new = self.wait_until_replaced(old).await;
        self.wait_until_whole().await;
        new
    }

    /// Waits until all sentinels that run report another primary than this one, and it is one. Returns
    /// it. The replicas may not have its data yet, see [`wait_until_whole`](Self::wait_until_whole).
    pub async fn wait_until_replaced(&self, old: usize) -> usize {
        self.wait(&format!("another primary than server {old}"), || self.agreed_primary().filter(|&new| new != old))
            .await
    }
}
