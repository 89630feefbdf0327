//! How a connection is described.

use std::{fmt, time::Duration};

use cache_core::{Error, ErrorKind, Result, SharedClock, SystemClock};
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use crate::{connection::RedisConnection, error, link::Target, runtime, server::Server};

/// Describes a [`RedisConnection`].
#[derive(Clone)]
pub struct RedisConnectionBuilder {
    url: String,
    connections: usize,
    deadline: Duration,
    clock: SharedClock,
    trust_restarts: bool,
    #[cfg(feature = "tls")]
    root_certificate: Option<Vec<u8>>,
}

impl RedisConnectionBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            connections: 1,
            deadline: Duration::from_millis(500),
            clock: SystemClock::shared(),
            trust_restarts: false,
            #[cfg(feature = "tls")]
            root_certificate: None,
        }
    }

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

    /// Takes what a Redis has after a restart, or after another has taken its place, as if nothing had happened. Default
    /// `false`: what was written before reads as a miss from then on, since deletions and replacements may be undone.
    ///
    /// It is right for a server that loses nothing, with `appendonly yes` and `appendfsync always`, and no replica that takes
    /// over. Then the cache is warm after a restart.
    pub fn trust_restarts(mut self, trust: bool) -> Self {
        self.trust_restarts = trust;
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
        runtime::current()?;
        if self.deadline.is_zero() || !(1..=64).contains(&self.connections) {
            let message = "a connection to Redis needs a deadline above zero and 1 to 64 connections";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let client = self.client()?;
        let patience = self.deadline.max(Duration::from_secs(1));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            // The deadline is kept by the call, which also counts the wait for a connection.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        let server = Server::new(self.clock, self.trust_restarts);
        Ok(RedisConnection::new(Target { client, config, patience, server }, self.connections, self.deadline))
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
