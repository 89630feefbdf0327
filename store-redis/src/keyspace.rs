//! The keys of one namespace, on the connection that leads to them.

use cache_core::{Key, Moment};
use redis::{Cmd, cmd};

use crate::{
    connection::{RedisConnection, call::Call},
    record::namespace::Namespace,
};

pub(crate) struct Keyspace {
    pub(crate) connection: RedisConnection,
    pub(crate) namespace: Namespace,
}

impl Keyspace {
    /// Starts a call.
    pub(crate) fn call(&self) -> Call<'_> {
        Call::new(self.connection.shared())
    }

    pub(crate) fn link_of(&self, key: &Key) -> usize {
        self.connection.shared().link_of(key)
    }

    pub(crate) fn now(&self) -> Moment {
        self.connection.shared().clock().now()
    }

    /// Returns the command that removes the key, and its link.
    pub(crate) fn unlink(&self, key: &Key) -> (usize, Cmd) {
        let mut unlink = cmd("UNLINK");
        unlink.arg(self.namespace.key(key));
        (self.link_of(key), unlink)
    }
}
