//! The keys of one namespace, on the connection that leads to them.

use std::sync::Arc;

use cache_core::{Key, Moment, Result};
use redis::Cmd;

use crate::{
    connection::{
        RedisConnection, Servers,
        call::Call,
        cluster::slots::slot_of,
        publication::{Publication, Writing},
    },
    record::namespace::Namespace,
    route::{Grouping, Route},
};

pub(crate) struct Keyspace {
    pub(crate) connection: RedisConnection,
    pub(crate) namespace: Namespace,
    pub(crate) publication: Arc<Publication>,
}

impl Keyspace {
    /// Runs `work` on the server that holds the key.
    pub(crate) async fn at<T, F>(&self, key: &Key, work: impl Fn(Call) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        match &self.connection.shared().servers {
            Servers::One(node) => work(Call::new(node)).await,
            // Boxed, because the future is large, and is not needed for one server.
            Servers::Cluster(cluster) => Box::pin(Route::new(cluster).run_one(self.slot_of(key), work)).await,
        }
    }

    /// Runs `work` on each server that holds some of the keys, and returns the results in the order of
    /// the items.
    pub(crate) async fn at_all<'k, K, T, F>(
        &self,
        items: &'k [K],
        key: impl Fn(&K) -> &Key,
        grouping: Grouping,
        work: impl Fn(Call, Vec<&'k K>) -> F,
    ) -> Vec<Result<T>>
    where
        F: Future<Output = Result<Vec<Result<T>>>>,
    {
        if items.is_empty() {
            return Vec::new();
        }
        match &self.connection.shared().servers {
            Servers::One(node) => {
                let results = work(Call::new(node), items.iter().collect()).await;
                results.unwrap_or_else(|error| items.iter().map(|_| Err(error.clone())).collect())
            }
            Servers::Cluster(cluster) => {
                let slot_of = |item: &K| self.slot_of(key(item));
                Box::pin(Route::new(cluster).run(items, slot_of, grouping, work)).await
            }
        }
    }

    fn slot_of(&self, key: &Key) -> u16 {
        slot_of(&self.namespace.key(key))
    }

    pub(crate) fn now(&self) -> Moment {
        self.connection.shared().clock.now()
    }

    /// Returns the command that removes the key, and its link.
    pub(crate) fn unlink(&self, call: &Call, writing: &Writing<'_>, key: &Key) -> (usize, Cmd) {
        (call.link_of(key), writing.unlink(&self.namespace.key(key)))
    }
}
