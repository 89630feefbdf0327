//! One server: its links, its identity and its clock.

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use cache_core::{Key, Result, SharedClock, backend::lock};
use redis::ConnectionAddr;

use super::{
    link::{Connected, Connecting, Link, Target},
    node_breaker::NodeBreaker,
    server::{Role, Server},
};

/// A server, or the place of one that another server may take over.
pub(crate) struct Node {
    this: Weak<Node>,
    pub(super) target: Arc<Target>,
    links: Box<[Mutex<Link>]>,
    timeout: Duration,
    breaker: NodeBreaker,
}

/// A link is replaced if a call on it times out and it has not replied for this many timeouts: a
/// connection that a middlebox has dropped never fails by itself.
const UNRESPONSIVE_AFTER: u32 = 10;

impl Node {
    /// Creates links to the target, each of which connects at its first call.
    pub(super) fn new(target: Target, links: usize, timeout: Duration) -> Arc<Self> {
        let target = Arc::new(target);
        Arc::new_cyclic(|this: &Weak<Self>| {
            let link = |at| Mutex::new(Link::new(&target, on_breakage(this, at, 0)));
            // The last one is for waiting.
            let links = (0..=links).map(link).collect();
            Self { this: Weak::clone(this), target, links, timeout, breaker: NodeBreaker::default() }
        })
    }

    pub(crate) fn links(&self) -> usize {
        self.links.len() - 1
    }

    /// Returns the link for commands that let their connection wait.
    pub(super) fn waiting_link(&self) -> usize {
        self.links()
    }

    /// Returns the link of a key. It is always the same, so that a process's own commands on a key
    /// keep their order.
    pub(crate) fn link_of(&self, key: &Key) -> usize {
        let links = u64::try_from(self.links()).unwrap_or(u64::MAX);
        usize::try_from(key.fingerprint().0 % links).unwrap_or_default()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the number of replicas that must confirm a write.
    pub(crate) fn replicas(&self) -> usize {
        self.target.replicas
    }

    /// Lets a call through, unless the node does not answer.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if the last calls have failed.
    pub(crate) fn admit(&self) -> Result<()> {
        self.breaker.admit(self.address())
    }

    pub(super) fn breaker(&self) -> &NodeBreaker {
        &self.breaker
    }

    pub(super) fn role(&self) -> Role {
        self.target.role
    }

    /// Returns `true` if a replica must not be used.
    pub(super) fn needs_primary(&self) -> bool {
        self.target.role != Role::Any
    }

    /// Returns `true` if the server holds only some of the keys.
    pub(crate) fn is_shard(&self) -> bool {
        self.target.role == Role::Shard
    }

    pub(super) fn server(&self) -> &Server {
        &self.target.server
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.target.server.clock
    }

    pub(super) fn address(&self) -> &ConnectionAddr {
        self.target.source.address()
    }

    fn link(&self, link: usize) -> MutexGuard<'_, Link> {
        lock(&self.links[link])
    }

    /// Returns the connection of a link and its generation, if it is set up.
    pub(super) fn connected(&self, link: usize) -> Option<(Arc<Connected>, u64)> {
        let link = self.link(link);
        let connected = link.connecting.peek()?.as_ref().ok()?;
        Some((Arc::clone(connected), link.generation))
    }

    /// Returns the connection of a link, or the attempt at it, and its generation.
    pub(super) fn connecting(&self, link: usize) -> (Connecting, u64) {
        let link = self.link(link);
        (link.connecting.clone(), link.generation)
    }

    /// Replaces all links, because another server may have taken the place of the one that they lead
    /// to.
    pub(super) fn replace_all(&self) {
        self.breaker.reset();
        for link in 0..self.links.len() {
            let (connecting, generation) = self.connecting(link);
            // One that is being set up will find the server as it is then.
            if connecting.peek().is_some() {
                self.replace(link, generation);
            }
        }
    }

    /// Replaces the link after a call on it has timed out, if it is unresponsive.
    pub(super) fn replace_unresponsive(&self, link: usize, generation: u64) {
        if self.link(link).last_reply.elapsed() > self.timeout * UNRESPONSIVE_AFTER {
            self.replace(link, generation);
        }
    }

    /// Replaces the link, unless another call has done so since. The next server may have another
    /// clock. Returns `true` if it was replaced.
    pub(super) fn replace(&self, link: usize, generation: u64) -> bool {
        let on_breakage = on_breakage(&self.this, link, generation + 1);
        let mut current = self.link(link);
        let is_current = current.generation == generation;
        if is_current {
            self.server().invalidate_clock();
            let old = current.replace(&self.target, on_breakage);
            drop(current);
            // Dropped outside of the lock: it may be the last handle of the driver's connection.
            drop(old);
        }
        is_current
    }
}

/// Returns the function that the driver calls when it notices by itself that a connection has
/// broken.
fn on_breakage(node: &Weak<Node>, link: usize, generation: u64) -> impl Fn() + Send + Sync + 'static {
    let node = Weak::clone(node);
    move || {
        if let Some(node) = node.upgrade() {
            node.replace(link, generation);
        }
    }
}
