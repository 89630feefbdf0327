//! The builder of a connection.

use std::{fmt, sync::Arc, time::Duration};

use cache_core::{Error, ErrorKind, Result, SharedClock, SystemClock};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::{
    RedisConnection, Servers, Shared,
    cluster::{Cluster, Settings},
    error,
    link::Target,
    node::Node,
    runtime,
    sentinels::Sentinels,
    server::{Role, Server},
    source::Source,
    target::{Parsed, RedisTarget},
};

/// Configures a [`RedisConnection`].
#[derive(Clone)]
pub struct RedisConnectionBuilder {
    target: RedisTarget,
    connections: usize,
    timeout: Duration,
    clock: SharedClock,
    trust_restarts: bool,
    replicas: usize,
    #[cfg(feature = "tls")]
    root_certificate: Option<Vec<u8>>,
}

impl RedisConnection {
    /// Returns a builder for a connection to a URL,
    /// `redis://[user:password@]host[:port][/database]`, with the settings of the application's own
    /// [`redis::Client`] or [`redis::ConnectionInfo`], or to a [cluster](RedisTarget::cluster) or the
    /// primary that [sentinels](RedisTarget::sentinel) name.
    ///
    /// `rediss://` needs the feature `tls`. `unix://` is a socket. With `?protocol=resp3`, a broken
    /// connection is noticed at once instead of at the next call.
    ///
    /// A client lends its settings, not its connections: the store makes its own. Before one of
    /// them carries a call, it identifies the run of the server and has the server close the
    /// connection that it replaces, and the calls of all tasks are pipelined on it. A connection
    /// that the application also uses, and that reconnects by itself, would give none of these
    /// guarantees. Use the [re-exported](crate::redis) version of the driver.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use store_redis::{RedisConnection, redis};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let by_url = RedisConnection::builder("redis://app:secret@cache.example/3").connect().await?;
    ///
    ///     let client = redis::Client::open("redis://app:secret@cache.example/3")?;
    ///     let by_client = RedisConnection::builder(&client).connect().await?;
    ///
    ///     let login = redis::RedisConnectionInfo::default().set_db(3).set_username("app").set_password("secret");
    ///     let info: redis::ConnectionInfo = "redis://cache.example".parse()?;
    ///     let by_info = RedisConnection::builder(info.set_redis_settings(login)).connect().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn builder(target: impl Into<RedisTarget>) -> RedisConnectionBuilder {
        RedisConnectionBuilder::new(target.into())
    }
}

impl RedisConnectionBuilder {
    fn new(target: RedisTarget) -> Self {
        Self {
            target,
            connections: 1,
            timeout: Duration::from_millis(500),
            clock: SystemClock::shared(),
            trust_restarts: false,
            replicas: 0,
            #[cfg(feature = "tls")]
            root_certificate: None,
        }
    }

    /// Sets the number of TCP connections to the server, or to each primary of a cluster, 1 to 64. The
    /// keys are spread over them. Default: 1. A
    /// connection carries all calls concurrently, and one is enough until its driver keeps a core
    /// busy, at about 100,000 calls per second.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the timeout of a call, which includes the wait for a connection. Default: 500 ms.
    ///
    /// `clear` takes one step for every thousand keys, and each step has this timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the clock by which entries expire. The chain above must use the same clock. Default:
    /// [`SystemClock`].
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets whether records from before a restart of Redis, or from before another server has taken
    /// its place, remain valid. Default: `false`. Such records then read as misses, because
    /// deletions and replacements may have been undone.
    ///
    /// Use `true` only for a server that loses nothing: `appendonly yes`, `appendfsync always`, and
    /// no replica that takes over. The cache is then warm after a restart.
    pub fn trust_restarts(mut self, trust: bool) -> Self {
        self.trust_restarts = trust;
        self
    }

    /// Sets the number of replicas that must confirm a `set`, `del`, `take` or `clear` before it
    /// succeeds (`WAIT`). Default: 0. If too few do so before the timeout, the call fails with
    /// `Timeout`, although the primary has applied it.
    ///
    /// Redis replicates asynchronously, so a replica that takes over may lack the latest writes. The
    /// store binds each entry to its primary, and after a failover serves no entry from before, so no
    /// deletion is undone. With [`plain`](crate::RedisStoreBuilder::plain) values and
    /// [`trust_restarts`](Self::trust_restarts), which cannot or do not bind entries, it is, unless
    /// every replica that may take over has confirmed it.
    ///
    /// It costs another round trip to the server, and one from there to the replicas, on a connection
    /// of its own.
    pub fn wait_for_replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets the root certificates, in PEM, that the server's certificate is checked against,
    /// instead of the roots of webpki. If the target is a [`redis::Client`] with certificates of its
    /// own, they replace all of these.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(pem.into());
        self
    }

    /// Connects, and asks the server for its time. On a cluster it connects to every primary, and fails
    /// if one does not answer; for [`connect_lazy`](Self::connect_lazy) one node that answers is enough.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`connect_lazy`](Self::connect_lazy), those of the server and the
    /// network, and one of kind `Timeout` after the timeout.
    ///
    /// # Cancel safety
    ///
    /// If dropped, it leaves no connection.
    pub async fn connect(self) -> Result<RedisConnection> {
        let connection = self.connect_lazy()?;
        connection.shared().connect().await?;
        Ok(connection)
    }

    /// Connects at the first call, so that an application can start while Redis is down. Calls fail
    /// until Redis is up.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the target, the certificate or a number is invalid,
    /// and of kind `Closed` outside a Tokio runtime.
    pub fn connect_lazy(self) -> Result<RedisConnection> {
        runtime::current()?;
        if self.timeout.is_zero() || !(1..=64).contains(&self.connections) {
            let message = "a connection to Redis needs a timeout above zero and 1 to 64 connections";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let connect_timeout = self.timeout.max(Duration::from_secs(1));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            // The call enforces the timeout, which includes the wait for a connection.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        let one = |source, role| {
            let server = Server::new(Arc::clone(&self.clock), self.trust_restarts);
            let (config, replicas) = (config.clone(), self.replicas);
            let target = Target { source, config, connect_timeout, role, replicas, server };
            Servers::One(Node::new(target, self.connections, self.timeout))
        };
        let (servers, address, database) = match self.target.parse()? {
            Parsed::One(info) => {
                let client = self.client(info)?;
                let info = client.get_connection_info();
                let (address, database) = (info.addr().to_string(), info.redis_settings().db());
                (one(Source::Fixed(Box::new(client)), Role::Any), address, database)
            }
            Parsed::Sentinel { name, sentinels, login } => {
                let login = self.client(login)?.get_connection_info().clone();
                let sentinels = self.clients(sentinels)?;
                let (address, database) = (format!("{name} of {}", addresses(&sentinels)), login.redis_settings().db());
                let sentinels = Sentinels::new(name, sentinels, login, config.clone(), connect_timeout);
                (one(Source::Sentinels(Box::new(sentinels)), Role::Primary), address, database)
            }
            Parsed::Cluster(nodes) => {
                if nodes.iter().any(|node| node.redis_settings().db() != 0) {
                    return Err(error::wrong_target("a Redis cluster has only database 0; leave it out of the URL"));
                }
                let seeds = self.clients(nodes)?;
                let address = addresses(&seeds);
                let settings = Settings {
                    config: config.clone(),
                    connect_timeout,
                    timeout: self.timeout,
                    links: self.connections,
                    clock: Arc::clone(&self.clock),
                    trust_restarts: self.trust_restarts,
                    replicas: self.replicas,
                };
                (Servers::Cluster(Cluster::new(&seeds, settings)?), address, 0)
            }
        };
        let (timeout, clock) = (self.timeout, self.clock);
        Ok(RedisConnection(Arc::new(Shared { servers, timeout, clock, address, database })))
    }

    fn clients(&self, servers: Vec<ConnectionInfo>) -> Result<Vec<Client>> {
        servers.into_iter().map(|server| self.client(server)).collect()
    }

    #[cfg_attr(not(feature = "tls"), allow(clippy::unused_self, reason = "only TLS has settings of this builder"))]
    fn client(&self, info: ConnectionInfo) -> Result<Client> {
        // The system notices a peer that has vanished, whether calls are in flight or not.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let tcp = tcp.set_user_timeout(Duration::from_secs(15));
        let info = info.set_tcp_settings(tcp);
        #[cfg(feature = "tls")]
        {
            // With two providers compiled in and none installed, rustls panics. A provider that the
            // application has installed is kept.
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                let _ = rustls::crypto::ring::default_provider().install_default();
            }
            if let Some(pem) = &self.root_certificate {
                let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                return Client::build_with_tls(info, certificates)
                    .map_err(|error| error::invalid("the root certificate or the address", &error));
            }
        }
        Client::open(info).map_err(|error| error::invalid("the address", &error))
    }
}

/// Returns the addresses in a text that does not depend on their order.
fn addresses(clients: &[Client]) -> String {
    let mut addresses: Vec<String> =
        clients.iter().map(|client| client.get_connection_info().addr().to_string()).collect();
    addresses.sort();
    addresses.join(", ")
}

/// Does not show the target, which may hold a password.
impl fmt::Debug for RedisConnectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnectionBuilder")
            .field("connections", &self.connections)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
