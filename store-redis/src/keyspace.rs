//! The keys of one namespace, on the connection that leads to them.

use std::sync::Arc;

use cache_core::{Key, Moment};
use redis::Cmd;

use crate::{
    connection::{
        RedisConnection,
        call::Call,
        publication::{Publication, Writing},
    },
    record::namespace::Namespace,
};

pub(crate) struct Keyspace {
    pub(crate) connection: RedisConnection,
    pub(crate) namespace: Namespace,
    pub(crate) publication: Arc<Publication>,
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
    pub(crate) fn unlink(&self, writing: &Writing<'_>, key: &Key) -> (usize, Cmd) {
        (self.link_of(key), writing.unlink(&self.namespace.key(key)))
    }
}
