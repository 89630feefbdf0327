//! The invalidation stream of a store: client tracking, or pub/sub if the server refuses that.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use cache_core::{Error, ErrorKind, Invalidation, InvalidationSink, InvalidationStream};

use super::{
    RedisConnection, Servers, cluster_tracking,
    publication::Publication,
    pubsub::PubSub,
    tracking::{Stop, Tracking},
};

/// The mechanism by which a store learns of changes that others make, to keep the tiers in memory
/// above it coherent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Invalidations {
    /// By client tracking: the server announces every change, whoever makes it. The default.
    ///
    /// If the server does not allow or support it, the stream falls back on pub/sub, except on a
    /// cluster, and this store announces its own writes from then on. The stream tries client tracking again each time that
    /// it connects.
    #[default]
    Tracking,
    /// By pub/sub, which a cluster does not support: the stores that are set to this, and those that
    /// have fallen back on it, announce their writes. Changes by other programs, by other stores, and evictions by the server are not
    /// seen.
    PubSub,
    /// Not at all.
    Off,
}

/// The stream of one store.
pub(crate) struct Stream {
    is_tracking: bool,
    connection: RedisConnection,
    publication: Arc<Publication>,
    is_warned: AtomicBool,
    /// `true` if entries in memory need a proof.
    is_expected: AtomicBool,
}

impl Stream {
    /// The stream of the changes to keys of a namespace, by client tracking first if `is_tracking`.
    pub(crate) fn new(connection: &RedisConnection, publication: &Arc<Publication>, is_tracking: bool) -> Self {
        let (connection, publication) = (connection.clone(), Arc::clone(publication));
        Self {
            is_tracking,
            connection,
            publication,
            is_warned: AtomicBool::new(false),
            is_expected: AtomicBool::new(false),
        }
    }

    async fn run_either(&self, heartbeat: Duration, sink: Arc<dyn InvalidationSink>) -> Error {
        let prefix = self.publication.counter();
        let node = match &self.connection.shared().servers {
            Servers::One(node) => node,
            Servers::Cluster(cluster) => {
                return match cluster_tracking::run(cluster, prefix, heartbeat, Arc::clone(&sink)).await {
                    (Stop::Refused(error), _) => refused_by_cluster(&error),
                    (Stop::Ended(error), true) => error,
                    (Stop::Ended(error), false) => {
                        self.expect_proof(&*sink);
                        error
                    }
                };
            }
        };
        let refusal = if self.is_tracking {
            match Tracking::new(Arc::clone(node), prefix).run(heartbeat, Arc::clone(&sink)).await {
                Stop::Refused(error) => Some(error),
                Stop::Ended(error) => return error,
            }
        } else {
            None
        };
        let mut has_begun = false;
        let begun = || {
            has_begun = true;
            self.warn(refusal.as_ref());
        };
        let pubsub = PubSub::new(Arc::clone(node), Arc::clone(&self.publication));
        let Err(error) = pubsub.run(heartbeat, sink, begun).await;
        let is_refusal = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Backend);
        if has_begun || !is_refusal { error } else { refused(refusal.as_ref(), &error) }
    }

    /// Lets the entries in memory be checked until there is a proof. Otherwise one primary that cannot be
    /// reached would keep the stream from beginning, and entries of all others would not be checked.
    fn expect_proof(&self, sink: &dyn InvalidationSink) {
        if !self.is_expected.swap(true, SeqCst) {
            sink.apply(Invalidation::Begin("tracking"));
            // Nothing can have changed between the two.
            sink.apply(Invalidation::Proven(Instant::now()));
        }
    }

    /// Logs once that the stream has fallen back on pub/sub.
    fn warn(&self, refusal: Option<&Error>) {
        let Some(error) = refusal.filter(|_| !self.is_warned.swap(true, SeqCst)) else { return };
        let namespace = self.publication.counter().trim_end_matches(':');
        tracing::warn!(
            namespace,
            error = error as &dyn std::error::Error,
            "Redis refused CLIENT TRACKING; this store and those that are refused as well announce their writes by \
             pub/sub. Changes by other programs and by instances that use client tracking are not seen; see the \
             permissions in the README of store-redis"
        );
    }
}

impl InvalidationStream for Stream {
    fn timeout(&self) -> Duration {
        self.connection.shared().timeout
    }

    fn run(
        self: Arc<Self>,
        heartbeat: Duration,
        sink: Arc<dyn InvalidationSink>,
    ) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        Box::pin(async move { self.run_either(heartbeat, sink).await })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("connection", &self.connection)
            .field("channel", &self.publication.channel())
            .field("is_tracking", &self.is_tracking)
            .finish_non_exhaustive()
    }
}

/// Returns the error of a stream that a node of a cluster refuses.
fn refused_by_cluster(error: &Error) -> Error {
    let message = "a node of the Redis cluster refused CLIENT TRACKING or CLUSTER NODES, which keep tiers in memory \
                   coherent; grant what the README of store-redis lists, or limit the tiers in memory by \
                   `Tier::max_ttl` and set `Invalidations::Off`";
    Error::with_source(error.kind(), message, error.clone())
}

/// Returns the error of a stream that the server refuses in every way.
fn refused(tracking: Option<&Error>, pubsub: &Error) -> Error {
    let refused = match tracking {
        Some(_) => "CLIENT TRACKING and PUBLISH or SUBSCRIBE, one of which keeps",
        None => "PUBLISH or SUBSCRIBE, which keep",
    };
    let message = format!(
        "Redis refused {refused} tiers in memory coherent; grant what the README of store-redis lists, or limit the \
         tiers in memory by `Tier::max_ttl` and set `Invalidations::Off`"
    );
    Error::with_source(pubsub.kind(), message, pubsub.clone())
}
