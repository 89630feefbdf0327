//! Clears a namespace.

use std::sync::Arc;

use cache_core::{Result, backend::only};
use futures_util::future::join_all;
use redis::{Value, cmd};

use crate::{
    connection::{
        Servers,
        call::Call,
        cluster::{Cluster, slots::slot_of},
        error::{moving, unexpected},
        node::Node,
        reply,
    },
    keyspace::Keyspace,
    record::scripts,
    route::{Grouping, Route},
};

/// The number of passes over a cluster whose slots move.
const MAX_PASSES: u32 = 5;

/// Unlinks the keys of the namespace.
///
/// # Errors
///
/// Returns an error of kind `Unavailable` if slots of a cluster keep moving.
pub(crate) async fn clear(keyspace: &Keyspace) -> Result<()> {
    let cluster = match &keyspace.connection.shared().servers {
        Servers::One(node) => return clear_node(keyspace, node).await,
        Servers::Cluster(cluster) => cluster,
    };
    for _ in 0..MAX_PASSES {
        // A key that moves from a node to one that was scanned before is not found.
        let before = cluster.layout().await?;
        for cleared in join_all(before.primaries.iter().map(|node| clear_node(keyspace, node))).await {
            cleared?;
        }
        if before.is_stable() && before.reports == cluster.layout().await?.reports {
            return Ok(());
        }
    }
    Err(moving())
}

/// Unlinks the keys that one server holds, one page of the scan at a time.
///
/// A scan finds every key that exists from its beginning to its end. A marker that is added
/// meanwhile belongs to a reader that started after the tiers below were cleared.
async fn clear_node(keyspace: &Keyspace, node: &Arc<Node>) -> Result<()> {
    // Commands that were sent before on other links must be applied before the scan.
    for link in 1..node.links() {
        Call::new(node).ask(link, cmd("PING")).await?;
    }
    let mut cursor = b"0".to_vec();
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(keyspace.namespace.pattern()).arg("COUNT").arg(1000);
        let [next, page] = reply::array(Call::new(node).ask(0, scan).await?)?;
        cursor = reply::bytes(next)?.ok_or_else(unexpected)?;
        let Value::Array(keys) = page else { return Err(unexpected()) };
        let keys: Vec<Vec<u8>> =
            keys.into_iter().map(|key| reply::bytes(key)?.ok_or_else(unexpected)).collect::<Result<_>>()?;
        let is_last = cursor == b"0";
        match &keyspace.connection.shared().servers {
            Servers::One(_) => unlink(keyspace, node, &keys, is_last).await?,
            Servers::Cluster(cluster) => unlink_in(cluster, &keys).await?,
        }
        if is_last {
            return confirm(node).await;
        }
    }
}

/// Waits until replicas have confirmed the removals, including those of an earlier `clear` that has
/// failed.
async fn confirm(node: &Arc<Node>) -> Result<()> {
    if node.replicas() == 0 {
        return Ok(());
    }
    only(Call::new(node).confirmed().send_all(&[], None, vec![(0, cmd("PING"))]).await).map(drop)
}

/// Removes the keys, and announces that all may have changed. The counter of the announcements may
/// be among the keys: its numbers start again. The last page is announced even if it is empty.
async fn unlink(keyspace: &Keyspace, node: &Arc<Node>, keys: &[Vec<u8>], is_last: bool) -> Result<()> {
    let publication = &keyspace.publication;
    let writing = publication.writing();
    if keys.is_empty() && !(is_last && writing.is_announced) {
        return Ok(());
    }
    let unlink = if writing.is_announced {
        publication.clear(keys)
    } else {
        let mut unlink = cmd("UNLINK");
        unlink.arg(keys);
        unlink
    };
    let scripts = [&scripts::CLEAR];
    let scripts = if writing.is_announced { &scripts[..] } else { &[] };
    only(Call::new(node).confirmed().send_all(scripts, None, vec![(0, unlink)]).await).map(drop)
}

/// Removes the keys from the nodes that hold them now.
async fn unlink_in(cluster: &Cluster, keys: &[Vec<u8>]) -> Result<()> {
    let work = |call: Call, keys: Vec<_>| async move {
        let unlink = |key| {
            let mut unlink = cmd("UNLINK");
            unlink.arg(key);
            (0, unlink)
        };
        let call = call.confirmed();
        let removed = call.send_all(&[], None, keys.into_iter().map(unlink).collect()).await;
        Ok(removed.into_iter().map(|removed| removed.map(drop)).collect())
    };
    let removed: Vec<Result<()>> = Route::new(cluster).run(keys, |key| slot_of(key), Grouping::Node, work).await;
    removed.into_iter().collect()
}
