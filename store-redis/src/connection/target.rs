//! The server to connect to, as an application names it.

use std::fmt;

use cache_core::Result;
use redis::{Client, ConnectionInfo, IntoConnectionInfo as _};

use super::error;

/// The server that a connection leads to, and how to log in there: a URL, a [`redis::Client`] or a
/// [`redis::ConnectionInfo`].
///
/// A client and its information are taken with their address, TLS certificates, database, user,
/// password, protocol and library name. Their TCP settings are replaced by those of the store, and
/// the timeouts are those of the builder.
///
/// `Debug` shows nothing of it, because a URL may hold a password.
#[derive(Clone)]
pub struct RedisTarget(Source);

#[derive(Clone)]
enum Source {
    Url(String),
    Info(Box<ConnectionInfo>),
}

impl RedisTarget {
    /// Returns the information for the driver.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the URL is invalid, or if the driver was built
    /// without support for the address.
    pub(super) fn connection_info(&self) -> Result<ConnectionInfo> {
        let info = match &self.0 {
            Source::Url(url) => url.as_str().into_connection_info().map_err(|error| error::invalid_url(&error))?,
            Source::Info(info) => ConnectionInfo::clone(info),
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
        Self(Source::Url(url))
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
        Self(Source::Info(Box::new(info)))
    }
}

impl fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTarget").finish_non_exhaustive()
    }
}
