//! The connection: how to reach the server, and how to reach it again.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use cache_core::{Key, Result, SharedClock};
use redis::ConnectionAddr;
use tokio::time::Instant;

use crate::{
    call::Call,
    connection_builder::RedisConnectionBuilder,
    link::{Connecting, Link, Target},
    server::Server,
};

/// A connection to a Redis server, for stores to share. A clone is the same connection.
///
/// It reconnects by itself: a call that finds it broken fails with `Unavailable` and starts the next attempt.
#[derive(Clone)]
pub struct RedisConnection(Arc<Shared>);

pub(crate) struct Shared {
    this: Weak<Shared>,
    target: Arc<Target>,
    links: Box<[Mutex<Link>]>,
    pub(crate) deadline: Duration,
}

/// A link that has not answered for this many deadlines, and lets a call wait in vain, is replaced: a connection that a
/// middlebox has forgotten never fails by itself.
const PATIENCE: u32 = 10;

impl RedisConnection {
    /// Starts to describe a connection to `redis://[user:password@]host[:port][/database]`.
    ///
    /// `rediss://` needs the feature `tls`, `unix://` is a socket, and `?protocol=resp3` makes a broken connection notice at
    /// once instead of at the next call.
    pub fn builder(url: impl Into<String>) -> RedisConnectionBuilder {
        RedisConnectionBuilder::new(url.into())
    }

    /// So many links to the target, each of which connects at its first call.
    pub(crate) fn new(target: Target, links: usize, deadline: Duration) -> Self {
        let target = Arc::new(target);
        Self(Arc::new_cyclic(|this: &Weak<Shared>| {
            let link = |at| Mutex::new(Link::new(&target, on_breakage(this, at, 0)));
            let links = (0..links).map(link).collect();
            Shared { this: Weak::clone(this), target, links, deadline }
        }))
    }

    /// Waits for every link, and learns the server's time.
    pub(crate) async fn ready(&self) -> Result<()> {
        for link in 0..self.0.links() {
            self.0.call().connect(link).await?;
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// A number for the data of this namespace on this server: the same for every connection with the same address.
    pub(crate) fn domain(&self, namespace: &str) -> u64 {
        let info = self.0.target.client.get_connection_info();
        let mut hasher = DefaultHasher::new();
        (info.addr().to_string(), info.redis_settings().db(), namespace).hash(&mut hasher);
        hasher.finish()
    }
}

/// Shows where it leads, not as whom.
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

/// What the driver calls when it notices by itself that a connection has broken.
fn on_breakage(shared: &Weak<Shared>, link: usize, generation: u64) -> impl Fn() + Send + Sync + 'static {
    let shared = Weak::clone(shared);
    move || {
        if let Some(shared) = shared.upgrade() {
            shared.replace(link, generation);
        }
    }
}

impl Shared {
    /// Starts a call: everything that it sends shares one deadline.
    pub(crate) fn call(&self) -> Call<'_> {
        Call::new(self)
    }

    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    /// The link of a key; always the same, so that a process's own commands on a key keep their order.
    pub(crate) fn link_of(&self, key: &Key) -> usize {
        let links = u64::try_from(self.links.len()).unwrap_or(u64::MAX);
        usize::try_from(key.fingerprint().high % links).unwrap_or_default()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.target.server
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.target.server.clock
    }

    pub(crate) fn address(&self) -> &ConnectionAddr {
        self.target.address()
    }

    fn link(&self, link: usize) -> MutexGuard<'_, Link> {
        self.links[link].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection of a link, or the attempt at it, and which one it is.
    pub(crate) fn connecting(&self, link: usize) -> (Connecting, u64) {
        let link = self.link(link);
        (link.connecting.clone(), link.generation)
    }

    pub(crate) fn answered(&self, link: usize) {
        self.link(link).alive = Instant::now();
    }

    /// A call on this link got no answer in time.
    pub(crate) fn silent(&self, link: usize, generation: u64) {
        if self.link(link).alive.elapsed() > self.deadline * PATIENCE {
            self.replace(link, generation);
        }
    }

    /// Starts the link anew, unless somebody has since. The next server may have another clock.
    pub(crate) fn replace(&self, link: usize, generation: u64) {
        let on_breakage = on_breakage(&self.this, link, generation + 1);
        let mut current = self.link(link);
        if current.generation == generation {
            self.server().distrust_clock();
            let old = current.restart(&self.target, on_breakage);
            drop(current);
            // Outside of the lock: the driver's end of it may be the last one.
            drop(old);
        }
    }
}
