//! The nodes that an invalidation stream follows.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tokio::sync::Notify;

use crate::connection::node::Node;

/// The nodes whose changes an invalidation stream hears of. It is over as soon as calls go to another
/// node: the stream does not hear of what changes there.
pub(crate) struct Watch {
    nodes: Vec<Arc<Node>>,
    is_over: AtomicBool,
    over: Notify,
}

impl Watch {
    pub(in crate::connection) fn new(nodes: Vec<Arc<Node>>) -> Self {
        Self { nodes, is_over: AtomicBool::new(false), over: Notify::new() }
    }

    /// Notes that calls go to this node, before the first of them does.
    pub(super) fn notice(&self, node: &Arc<Node>) {
        if !self.has(node) {
            self.end();
        }
    }

    /// Ends the watch.
    pub(in crate::connection) fn end(&self) {
        self.is_over.store(true, SeqCst);
        self.over.notify_one();
    }

    pub(super) fn has(&self, node: &Arc<Node>) -> bool {
        self.nodes.iter().any(|watched| Arc::ptr_eq(watched, node))
    }

    pub(crate) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Returns when the watch is over.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            self.over.notified().await;
        }
    }
}
