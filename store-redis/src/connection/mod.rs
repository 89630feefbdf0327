//! The connection to Redis, which several stores can share: to one server, to the primary that
//! sentinels name, or to all primaries of a cluster.

// From the bottom up: each module uses only those above it.
mod hint;
pub(crate) mod redirection;

pub(crate) mod error;
mod runtime;

mod login;
pub(crate) mod reply;
mod survey;

pub(crate) mod server;

mod sentinels;
mod source;

mod handshake;
mod node_breaker;

mod batch;
mod last_reply;
mod queue;

mod link;
pub(crate) mod node;

pub(crate) mod call;

pub(crate) mod cluster;

pub(crate) mod publication;

mod session;

mod pubsub;
mod tracking;

mod cluster_tracking;

pub(crate) mod invalidations;

pub(crate) mod target;

pub(crate) mod builder;

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use cache_core::{Result, SharedClock};
use futures_util::future::join_all;
use tokio::time::Instant;

use self::{call::connect_all, cluster::Cluster, node::Node};

/// A connection to Redis, which several stores can share: to one server, to the primary that
/// sentinels name, or to all primaries of a cluster. Clones share one connection.
///
/// It reconnects by itself: a call that finds the connection broken fails with `Unavailable` and
/// starts the next attempt.
#[derive(Clone)]
pub struct RedisConnection(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) servers: Servers,
    pub(crate) timeout: Duration,
    pub(crate) clock: SharedClock,
    /// The names of the servers, and the number of the database.
    address: String,
    database: i64,
}

/// The servers that a connection leads to.
pub(crate) enum Servers {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

impl Shared {
    /// Connects all links to all servers.
    pub(crate) async fn connect(&self) -> Result<()> {
        let nodes = self.nodes().await?;
        join_all(nodes.iter().map(connect_all)).await.into_iter().collect()
    }

    /// Returns the servers that hold keys now.
    ///
    /// # Errors
    ///
    /// Returns an error if the nodes of a cluster cannot be asked.
    pub(crate) async fn nodes(&self) -> Result<Vec<Arc<Node>>> {
        match &self.servers {
            Servers::One(node) => Ok(vec![Arc::clone(node)]),
            Servers::Cluster(cluster) => cluster.primaries(Instant::now()).await,
        }
    }
}

impl RedisConnection {
    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Returns the number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.0.database
    }

    /// Returns a number that identifies the data of this namespace. It is equal for all connections
    /// to the same address.
    pub(crate) fn domain(&self, namespace: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.0.address, self.0.database, namespace).hash(&mut hasher);
        hasher.finish()
    }
}

/// Shows the address and the database, not the credentials.
impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection")
            .field("address", &format_args!("{}", self.0.address))
            .field("db", &self.0.database)
            .field("timeout", &self.0.timeout)
            .finish_non_exhaustive()
    }
}
