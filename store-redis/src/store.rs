//! The store.

use std::{fmt, marker::PhantomData, slice, sync::Arc, time::Duration};

use cache_core::{Claim, Codec, Entry, Key, Moment, Profile, Result, Store, Ticket, Write, backend::write_id};
use redis::{Cmd, cmd};

use crate::{
    builder::{DefaultCodec, RedisStoreBuilder},
    connection::RedisConnection,
    connection_builder::RedisConnectionBuilder,
    error,
    layout::Layout,
    namespace::Namespace,
};

/// A store of values of type `V` in Redis, encoded by the codec `C`.
///
/// A clone is the same store. See the [crate](crate) for what it promises.
///
/// # Errors
///
/// What the methods of [`Store`] fail with: `Timeout` after the deadline, `Unavailable` while Redis cannot be reached or is
/// loading, `Denied`, `Full` and `ReadOnly` as Redis refuses, `Codec` for what is no value of this store, `Closed` outside of a
/// Tokio runtime and when the runtime of the connection has ended, and `Backend` for anything else.
///
/// # Cancel safety
///
/// A dropped call leaves nothing behind. What it had not sent yet is not sent; what it had sent takes effect before
/// anything that is sent later for the same key by this process on the same connection.
pub struct RedisStore<V, C = DefaultCodec>(Arc<Inner<V, C>>);

pub(crate) struct Inner<V, C> {
    pub(crate) connection: RedisConnection,
    pub(crate) namespace: Namespace,
    pub(crate) layout: Layout<C>,
    pub(crate) lease_millis: u64,
    /// Which data it holds, for the guard that a chain puts around a plain store.
    domain: u64,
    pub(crate) values: PhantomData<fn() -> V>,
}

impl<V> RedisStore<V> {
    /// Starts to describe a store with a connection of its own; see [`RedisConnection::builder`] for the URL.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder<V, DefaultCodec, RedisConnectionBuilder> {
        RedisStoreBuilder::new(RedisConnection::builder(url))
    }

    /// Starts to describe a store on a connection that others share.
    pub fn builder_on(connection: &RedisConnection) -> RedisStoreBuilder<V, DefaultCodec, RedisConnection> {
        RedisStoreBuilder::new(connection.clone())
    }
}

impl<V, C> RedisStore<V, C> {
    pub(crate) fn new(connection: RedisConnection, namespace: Namespace, layout: Layout<C>, lease_millis: u64) -> Self {
        let domain = connection.domain(namespace.name());
        Self(Arc::new(Inner { connection, namespace, layout, lease_millis, domain, values: PhantomData }))
    }

    pub(crate) fn connection(&self) -> &RedisConnection {
        &self.0.connection
    }

    /// Asks the server whether its user may run the commands that this store needs on its namespace. The README lists them.
    ///
    /// [`RedisStoreBuilder::connect`] does it. Where the connection is shared or lazy, call it when the application starts: a chain
    /// goes on without a tier that refuses everything.
    ///
    /// # Errors
    ///
    /// Of kind `Denied`, with the names of all commands that are missing; else as the server or the way to it fails.
    pub async fn check_permissions(&self) -> Result<()> {
        self.0.check_permissions().await
    }
}

impl<V, C> Clone for RedisStore<V, C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V, C> fmt::Debug for RedisStore<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("connection", &self.0.connection)
            .field("namespace", &self.0.namespace.name())
            .field("plain", &self.0.layout.is_plain())
            .finish()
    }
}

impl<V, C: Codec<V>> Store for RedisStore<V, C>
where
    V: Clone + Send + Sync + 'static,
{
    type Value = V;

    fn profile(&self) -> Profile {
        let records = !self.0.layout.is_plain();
        Profile::new("redis")
            .leases(records)
            .claims(records)
            .markers(records)
            .domain(self.0.domain)
            .ttl_resolution(self.0.connection.shared().deadline)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<V>>> {
        only(self.get_many(slice::from_ref(key)).await)
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        only(self.lease_many(slice::from_ref(key)).await)
    }

    async fn claim(&self, key: &Key) -> Result<Claim> {
        if self.0.layout.is_plain() {
            return Ok(Claim::granted(Ticket::unconditional()));
        }
        self.0.claim(key).await
    }

    async fn release(&self, key: &Key, ticket: Ticket) -> Result<()> {
        match ticket.version().filter(|&id| write_id::is_claim(id)) {
            Some(id) if !self.0.layout.is_plain() => self.0.release([(key, id)].into_iter()).await,
            _ => Ok(()),
        }
    }

    async fn lease_within(&self, key: &Key, life: Duration) -> Result<Ticket> {
        only(self.lease_many_within(slice::from_ref(key), life).await)
    }

    async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
        if self.0.layout.is_plain() {
            return Ok(());
        }
        // Where a claim is held, a lease is given the claim's id.
        let markers = leases.iter().filter_map(|(key, ticket)| {
            let id = ticket.version().filter(|&id| !write_id::is_claim(id))?;
            Some((key, id))
        });
        self.0.release(markers).await
    }

    async fn fill(&self, write: Write<V>) -> Result<bool> {
        only(self.fill_many(vec![write]).await)
    }

    async fn set(&self, write: Write<V>) -> Result<()> {
        only(self.set_many(vec![write]).await)
    }

    async fn del(&self, key: &Key) -> Result<()> {
        only(self.del_many(slice::from_ref(key)).await)
    }

    async fn clear(&self) -> Result<()> {
        self.0.clear().await
    }

    async fn wait(&self) -> Result<()> {
        Ok(())
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<V>>>> {
        let read = match &self.0.layout {
            Layout::Record(envelope) => self.0.read(envelope, keys).await,
            Layout::Plain(codec) => self.0.read_plain(codec, keys).await,
        };
        read.unwrap_or_else(|error| vec![Err(error); keys.len()])
    }

    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        self.lease_many_within(keys, Duration::MAX).await
    }

    async fn lease_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Ticket>> {
        if self.0.layout.is_plain() {
            return vec![Ok(Ticket::unconditional()); keys.len()];
        }
        self.0.lease(keys, life).await.unwrap_or_else(|error| vec![Err(error); keys.len()])
    }

    async fn fill_many(&self, writes: Vec<Write<V>>) -> Vec<Result<bool>> {
        self.0.fill(&writes).await.unwrap_or_else(|error| vec![Err(error); writes.len()])
    }

    async fn set_many(&self, writes: Vec<Write<V>>) -> Vec<Result<()>> {
        self.0.set(&writes).await.unwrap_or_else(|error| vec![Err(error); writes.len()])
    }

    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        let call = self.0.connection.shared().call();
        let replies = call.each(None, None, keys.iter().map(|key| self.0.unlink(key)).collect()).await;
        replies.into_iter().map(|reply| reply.map(drop)).collect()
    }
}

/// The one result of a batch of one.
pub(crate) fn only<T>(results: Vec<Result<T>>) -> Result<T> {
    results.into_iter().next().unwrap_or_else(|| Err(error::unexpected()))
}

impl<V, C> Inner<V, C> {
    pub(crate) fn link_of(&self, key: &Key) -> usize {
        self.connection.shared().link_of(key)
    }

    pub(crate) fn now(&self) -> Moment {
        self.connection.shared().clock().now()
    }

    pub(crate) fn unlink(&self, key: &Key) -> (usize, Cmd) {
        let mut unlink = cmd("UNLINK");
        unlink.arg(self.namespace.key(key));
        (self.link_of(key), unlink)
    }
}
