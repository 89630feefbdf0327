//! Where the connections of a node lead to.

use std::borrow::Cow;

use cache_core::Result;
use redis::{Client, ConnectionAddr};

use super::sentinels::Sentinels;

/// The server of a node, or the sentinels that know it.
pub(super) enum Source {
    Fixed(Box<Client>),
    Sentinels(Box<Sentinels>),
}

impl Source {
    /// Returns a client of the server.
    ///
    /// # Errors
    ///
    /// Returns an error if no sentinel names a server.
    pub(super) async fn client(&self) -> Result<Cow<'_, Client>> {
        match self {
            Self::Fixed(client) => Ok(Cow::Borrowed(client)),
            Self::Sentinels(sentinels) => sentinels.primary().await.map(Cow::Owned),
        }
    }

    /// Returns an address of the same kind as that of the server, and its own if it is known.
    pub(super) fn address(&self) -> &ConnectionAddr {
        match self {
            Self::Fixed(client) => client.get_connection_info().addr(),
            Self::Sentinels(sentinels) => sentinels.login().addr(),
        }
    }
}
