//! The server to connect to, as an application names it.

use std::fmt;

use cache_core::Result;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

use super::error;

/// The server that a connection leads to, and how to log in there: a URL, a [`redis::Client`] or a
/// [`redis::ConnectionInfo`]. Or a [cluster](Self::cluster), or a primary that
/// [sentinels](Self::sentinel) name.
///
/// A client and its information are taken with their address, TLS certificates, database, user,
/// password, protocol and library name. Their TCP settings are replaced by those of the store, and
/// the timeouts are those of the builder.
///
/// `Debug` shows nothing of it, because a URL may hold a password.
#[derive(Clone)]
pub struct RedisTarget(Kind);

#[derive(Clone)]
enum Kind {
    One(Server),
    Cluster(Vec<RedisTarget>),
    Sentinel { name: String, sentinels: Vec<RedisTarget>, login: Box<RedisTarget> },
}

#[derive(Clone)]
enum Server {
    Url(String),
    Info(Box<ConnectionInfo>),
}

/// A target whose parts have been checked.
pub(super) enum Parsed {
    One(ConnectionInfo),
    Cluster(Vec<ConnectionInfo>),
    Sentinel { name: String, sentinels: Vec<ConnectionInfo>, login: ConnectionInfo },
}

impl RedisTarget {
    /// A Redis Cluster, of which these are some nodes. The first of them tells how to log in to all
    /// nodes: user, password, protocol and TLS; those of the others are ignored. One that answers is
    /// enough to find the others.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use store_redis::{RedisStore, RedisTarget};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_core::Result<()> {
    ///     let cluster = RedisTarget::cluster(["redis://app:secret@node-1.example:7000", "redis://node-2.example:7000"]);
    ///     let users: RedisStore<String> = RedisStore::builder(cluster).namespace("users").connect().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn cluster(nodes: impl IntoIterator<Item = impl Into<Self>>) -> Self {
        Self(Kind::Cluster(nodes.into_iter().map(Into::into).collect()))
    }

    /// The primary that Redis Sentinel watches under this name. The sentinels are asked when a connection
    /// is made, with the user and the password of their own targets. [`login`](Self::login) sets how to
    /// log in to the primary.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use store_redis::{RedisStore, RedisTarget};
    ///
    /// #[tokio::main]
    /// async fn main() -> cache_core::Result<()> {
    ///     let sentinels = ["redis://s1.example:26379", "redis://s2.example:26379", "redis://s3.example:26379"];
    ///     // The host of a login is not used.
    ///     let primary = RedisTarget::sentinel("mymaster", sentinels).login("redis://app:secret@primary/0");
    ///     let users: RedisStore<String> = RedisStore::builder(primary).namespace("users").connect().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn sentinel(name: impl Into<String>, sentinels: impl IntoIterator<Item = impl Into<Self>>) -> Self {
        let sentinels = sentinels.into_iter().map(Into::into).collect();
        Self(Kind::Sentinel { name: name.into(), sentinels, login: Box::new("redis://primary/".into()) })
    }

    /// Sets how to log in to the servers that [sentinels](Self::sentinel) name: with the user, the
    /// password, the database, the protocol and the TLS settings of this target. Its address is not
    /// used. Default: no login, database 0, no TLS. Other targets have their own login, and ignore this
    /// one.
    pub fn login(self, login: impl Into<Self>) -> Self {
        match self.0 {
            Kind::Sentinel { name, sentinels, .. } => {
                Self(Kind::Sentinel { name, sentinels, login: Box::new(login.into()) })
            }
            kind => Self(kind),
        }
    }

    /// Returns the information for the driver.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if a URL is invalid, if the driver was built without
    /// support for an address, or if there are no nodes or sentinels.
    pub(super) fn parse(&self) -> Result<Parsed> {
        match &self.0 {
            Kind::One(server) => Ok(Parsed::One(server.connection_info()?)),
            Kind::Cluster(nodes) => Ok(Parsed::Cluster(servers(nodes, "a cluster needs the address of a node")?)),
            Kind::Sentinel { name, sentinels, login } => {
                let sentinels = servers(sentinels, "sentinels are needed, at least one")?;
                let login = login.server()?.connection_info()?;
                Ok(Parsed::Sentinel { name: name.clone(), sentinels, login })
            }
        }
    }

    fn server(&self) -> Result<&Server> {
        match &self.0 {
            Kind::One(server) => Ok(server),
            _ => Err(error::wrong_target("a cluster or sentinels cannot be a part of another target")),
        }
    }
}

/// Returns the information of these servers, and the error `missing` if there are none.
fn servers(targets: &[RedisTarget], missing: &'static str) -> Result<Vec<ConnectionInfo>> {
    let servers: Vec<_> = targets.iter().map(|target| target.server()?.connection_info()).collect::<Result<_>>()?;
    if servers.iter().any(|server| matches!(server.addr(), ConnectionAddr::Unix(_))) {
        return Err(error::wrong_target("nodes of a cluster and sentinels are reached by host and port"));
    }
    if servers.is_empty() { Err(error::wrong_target(missing)) } else { Ok(servers) }
}

impl Server {
    fn connection_info(&self) -> Result<ConnectionInfo> {
        let info = match self {
            Self::Url(url) => url.as_str().into_connection_info().map_err(|error| error::invalid_url(&error))?,
            Self::Info(info) => ConnectionInfo::clone(info),
        };
        if info.addr().is_supported() { Ok(info) } else { Err(error::unsupported(info.addr())) }
    }
}

impl From<&str> for RedisTarget {
    fn from(url: &str) -> Self {
        url.to_owned().into()
    }
}

impl From<&String> for RedisTarget {
    fn from(url: &String) -> Self {
        url.clone().into()
    }
}

impl From<String> for RedisTarget {
    fn from(url: String) -> Self {
        Self(Kind::One(Server::Url(url)))
    }
}

impl From<&Client> for RedisTarget {
    fn from(client: &Client) -> Self {
        client.get_connection_info().into()
    }
}

impl From<Client> for RedisTarget {
    fn from(client: Client) -> Self {
        (&client).into()
    }
}

impl From<&ConnectionInfo> for RedisTarget {
    fn from(info: &ConnectionInfo) -> Self {
        info.clone().into()
    }
}

impl From<ConnectionInfo> for RedisTarget {
    fn from(info: ConnectionInfo) -> Self {
        Self(Kind::One(Server::Info(Box::new(info))))
    }
}

impl fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTarget").finish_non_exhaustive()
    }
}
