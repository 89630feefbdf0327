//! The connection to a Redis server, which several stores can share, and its reconnection.

// From the bottom up: each module uses only those above it.
mod hint;

pub(crate) mod error;
mod runtime;

pub(crate) mod reply;
pub(crate) mod server;

mod handshake;

mod batch;
mod last_reply;
mod queue;

mod link;

pub(crate) mod call;

pub(crate) mod publication;

mod session;

mod pubsub;
mod tracking;

pub(crate) mod invalidations;

pub(crate) mod target;

pub(crate) mod builder;

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use cache_core::{Key, SharedClock, backend::lock};
use redis::ConnectionAddr;

use self::{
    link::{Connected, Connecting, Link, Target},
    server::Server,
};

/// A connection to a Redis server, which several stores can share. Clones share one connection.
///
/// It reconnects by itself: a call that finds the connection broken fails with `Unavailable` and
/// starts the next attempt.
#[derive(Clone)]
pub struct RedisConnection(Arc<Shared>);

pub(crate) struct Shared {
    this: Weak<Shared>,
    target: Arc<Target>,
    links: Box<[Mutex<Link>]>,
    timeout: Duration,
}

/// A link is replaced if a call on it times out and it has not replied for this many timeouts: a
/// connection that a middlebox has dropped never fails by itself.
const UNRESPONSIVE_AFTER: u32 = 10;

impl RedisConnection {
    /// Creates links to the target, each of which connects at its first call.
    fn new(target: Target, links: usize, timeout: Duration) -> Self {
        let target = Arc::new(target);
        Self(Arc::new_cyclic(|this: &Weak<Shared>| {
            let link = |at| Mutex::new(Link::new(&target, on_breakage(this, at, 0)));
            let links = (0..links).map(link).collect();
            Shared { this: Weak::clone(this), target, links, timeout }
        }))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Returns the number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.0.target.client.get_connection_info().redis_settings().db()
    }

    /// Returns a number that identifies the data of this namespace on this server. It is equal for
    /// all connections to the same address.
    pub(crate) fn domain(&self, namespace: &str) -> u64 {
        let info = self.0.target.client.get_connection_info();
        let mut hasher = DefaultHasher::new();
        (info.addr().to_string(), info.redis_settings().db(), namespace).hash(&mut hasher);
        hasher.finish()
    }
}

/// Shows the address and the database, not the credentials.
impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0.target.client.get_connection_info();
        f.debug_struct("RedisConnection")
            .field("address", &format_args!("{}", info.addr()))
            .field("db", &info.redis_settings().db())
            .field("connections", &self.0.links.len())
            .finish()
    }
}

/// Returns the function that the driver calls when it notices by itself that a connection has
/// broken.
fn on_breakage(shared: &Weak<Shared>, link: usize, generation: u64) -> impl Fn() + Send + Sync + 'static {
    let shared = Weak::clone(shared);
    move || {
        if let Some(shared) = shared.upgrade() {
            shared.replace(link, generation);
        }
    }
}

impl Shared {
    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    /// Returns the link of a key. It is always the same, so that a process's own commands on a key
    /// keep their order.
    pub(crate) fn link_of(&self, key: &Key) -> usize {
        let links = u64::try_from(self.links.len()).unwrap_or(u64::MAX);
        usize::try_from(key.fingerprint().0 % links).unwrap_or_default()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn server(&self) -> &Server {
        &self.target.server
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.target.server.clock
    }

    fn address(&self) -> &ConnectionAddr {
        self.target.address()
    }

    fn link(&self, link: usize) -> MutexGuard<'_, Link> {
        lock(&self.links[link])
    }

    /// Returns the connection of a link and its generation, if it is set up.
    fn connected(&self, link: usize) -> Option<(Arc<Connected>, u64)> {
        let link = self.link(link);
        let connected = link.connecting.peek()?.as_ref().ok()?;
        Some((Arc::clone(connected), link.generation))
    }

    /// Returns the connection of a link, or the attempt at it, and its generation.
    fn connecting(&self, link: usize) -> (Connecting, u64) {
        let link = self.link(link);
        (link.connecting.clone(), link.generation)
    }

    /// Replaces the link after a call on it has timed out, if it is unresponsive.
    fn replace_unresponsive(&self, link: usize, generation: u64) {
        if self.link(link).last_reply.elapsed() > self.timeout * UNRESPONSIVE_AFTER {
            self.replace(link, generation);
        }
    }

    /// Replaces the link, unless another call has done so since. The next server may have another
    /// clock.
    fn replace(&self, link: usize, generation: u64) {
        let on_breakage = on_breakage(&self.this, link, generation + 1);
        let mut current = self.link(link);
        if current.generation == generation {
            self.server().invalidate_clock();
            let old = current.replace(&self.target, on_breakage);
            drop(current);
            // Dropped outside of the lock: it may be the last handle of the driver's connection.
            drop(old);
        }
    }
}
