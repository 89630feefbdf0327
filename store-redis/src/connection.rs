//! The connection: how to reach the server, and how to reach it again.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cache_core::{Error, ErrorKind, Key, Result, SharedClock, SystemClock, backend::ServerClock};
use redis::{
    Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::time::Instant;

use crate::{call::Call, error};

/// A connection to a Redis server, for stores to share. A clone is the same connection.
///
/// It reconnects by itself: a call that finds it broken fails with `Unavailable` and starts the next attempt.
#[derive(Clone)]
pub struct RedisConnection(Arc<Shared>);

pub(crate) struct Shared {
    client: Client,
    config: ConnectionManagerConfig,
    links: Box<[Mutex<Link>]>,
    server_clock: Arc<Mutex<Option<ServerClock>>>,
    pub(crate) clock: SharedClock,
    pub(crate) deadline: Duration,
}

/// One connection of the driver.
struct Link {
    manager: ConnectionManager,
    /// How often it was replaced.
    generation: u64,
    /// When it last answered or was replaced.
    alive: Instant,
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
        RedisConnectionBuilder {
            url: url.into(),
            connections: 1,
            deadline: Duration::from_millis(500),
            clock: SystemClock::shared(),
            #[cfg(feature = "tls")]
            root_certificate: None,
        }
    }

    /// Waits for every link, and learns the server's time.
    pub(crate) async fn ready(&self) -> Result<()> {
        for link in 0..self.0.links() {
            self.0.call().measure(link).await?;
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }
}

/// Shows where it leads, not as whom.
impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0.client.get_connection_info();
        f.debug_struct("RedisConnection")
            .field("address", &format_args!("{}", info.addr()))
            .field("db", &info.redis_settings().db())
            .field("connections", &self.0.links.len())
            .finish()
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

    fn link(&self, link: usize) -> std::sync::MutexGuard<'_, Link> {
        self.links[link].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver's end of a link, and which one it is.
    pub(crate) fn manager(&self, link: usize) -> (ConnectionManager, u64) {
        let link = self.link(link);
        (link.manager.clone(), link.generation)
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

    /// Starts the link anew, unless somebody has since. The driver retries by itself only what the network did; a server
    /// that refused a handshake, being full of clients for example, would be taken at its word for ever.
    pub(crate) fn replace(&self, link: usize, generation: u64) {
        let Ok(manager) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone()) else {
            return;
        };
        let mut link = self.link(link);
        if link.generation == generation {
            *link = Link { manager, generation: generation + 1, alive: Instant::now() };
        }
    }

    pub(crate) fn server_clock(&self) -> Option<ServerClock> {
        *self.server_clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the server's clock is, or that it is unknown: after a reconnection it may be another server.
    pub(crate) fn set_server_clock(&self, clock: Option<ServerClock>) {
        *self.server_clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }
}

/// Describes a [`RedisConnection`].
#[derive(Clone)]
pub struct RedisConnectionBuilder {
    url: String,
    connections: usize,
    deadline: Duration,
    clock: SharedClock,
    #[cfg(feature = "tls")]
    root_certificate: Option<Vec<u8>>,
}

impl RedisConnectionBuilder {
    /// How many TCP connections there are, 1 to 64; keys are spread over them. Default 1: it carries all calls at once, and
    /// one is enough until its driver keeps a core busy, at some 100,000 calls a second.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How long a call may take, waiting for a connection included. Default 500 ms.
    ///
    /// `clear` takes as many steps as there are keys by the thousand, each under this deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The clock that entries expire by; the chain above must use the same. Default [`SystemClock`].
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// The certificates, in PEM, that the server's is checked against, in place of the roots of webpki.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(pem.into());
        self
    }

    /// Connects, and asks the server for its time.
    ///
    /// # Errors
    ///
    /// As [`connect_lazy`](Self::connect_lazy), and as the server or the way to it fails; `Timeout` after the deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves no connection.
    pub async fn connect(self) -> Result<RedisConnection> {
        let connection = self.connect_lazy()?;
        connection.ready().await?;
        Ok(connection)
    }

    /// Connects at the first call, so that an application starts while Redis is down. Calls fail until it is up.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if the URL, the certificate or a number cannot be used; of kind `Closed` outside of a Tokio
    /// runtime.
    pub fn connect_lazy(self) -> Result<RedisConnection> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(ErrorKind::Closed, "store-redis works inside a Tokio runtime only"));
        }
        if self.deadline.is_zero() || !(1..=64).contains(&self.connections) {
            let message = "a connection to Redis needs a deadline above zero and 1 to 64 connections";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let client = self.client()?;
        let server_clock = Arc::new(Mutex::new(None));
        let mut config = ConnectionManagerConfig::new()
            // A refused connection is to fail at once, and a server that is down must not be hammered.
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(10))
            .set_max_delay(Duration::from_millis(50))
            .set_connection_timeout(Some(self.deadline.max(Duration::from_secs(1))))
            // The deadline is kept by the call, which also counts the wait for a connection.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        if client.get_connection_info().redis_settings().protocol() == ProtocolVersion::RESP3 {
            // The driver reconnects without a call having failed; the next server may have another clock.
            let server_clock = Arc::clone(&server_clock);
            config = config.set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    *server_clock.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Ok::<(), redis::aio::SendError>(())
            });
        }
        let link = || -> Result<Mutex<Link>> {
            let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())
                .map_err(|error| error::broken(&error))?;
            Ok(Mutex::new(Link { manager, generation: 0, alive: Instant::now() }))
        };
        let links = (0..self.connections).map(|_| link()).collect::<Result<_>>()?;
        let Self { deadline, clock, .. } = self;
        Ok(RedisConnection(Arc::new(Shared { client, config, links, server_clock, clock, deadline })))
    }

    fn client(&self) -> Result<Client> {
        let invalid = |error| error::invalid("the Redis URL", &error);
        let info = self.url.as_str().into_connection_info().map_err(invalid)?;
        // A peer that vanishes without a word is noticed by the system, whether calls are under way or not.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let tcp = tcp.set_user_timeout(Duration::from_secs(15));
        let info = info.set_tcp_settings(tcp);
        #[cfg(feature = "tls")]
        {
            // With two providers compiled in and none chosen, rustls panics; an application's own choice comes first.
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                let _ = rustls::crypto::ring::default_provider().install_default();
            }
            if let Some(pem) = &self.root_certificate {
                let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                let invalid = |error| error::invalid("the root certificate or the URL", &error);
                return Client::build_with_tls(info, certificates).map_err(invalid);
            }
        }
        Client::open(info).map_err(invalid)
    }
}

/// Does not show the URL, which may hold a password.
impl fmt::Debug for RedisConnectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnectionBuilder")
            .field("connections", &self.connections)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
