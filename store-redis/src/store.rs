//! The store.

use std::{fmt, marker::PhantomData, slice, sync::Arc, time::Duration};

use cache_core::{
    Claim, Codec, Entry, InvalidationStream, Key, Lifetime, Moment, Profile, Result, Revalidated, Store, Ticket, Write,
    backend::{ETag, Inspection, ServerTime, only, write_id},
};

use crate::{
    clear,
    codec::DefaultCodec,
    connection::{
        RedisConnection, Servers,
        call::Call,
        invalidations::{Invalidations, Stream},
        publication::Publication,
    },
    inspect,
    keyspace::Keyspace,
    lease, permissions, read,
    record::{layout::Layout, namespace::Namespace},
    revalidate,
    route::Grouping,
    take, touch, write,
};

/// A store of values of type `V` in Redis, encoded by the codec `C`.
///
/// Clones share one store. The [crate's documentation](crate) lists the guarantees and the limits.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use cache_core::DelegateCache;
/// use store_redis::RedisStore;
///
/// #[tokio::main]
/// async fn main() -> cache_core::Result<()> {
///     let store: RedisStore<String> = RedisStore::builder("redis://127.0.0.1/").namespace("users").connect().await?;
///
///     // Alone, or as a tier of a chain: `ChainCache::builder().tier(memory).tier(store)`.
///     let users = DelegateCache::new(store);
///     users.set_with_ttl(42, "Ada".to_owned(), Duration::from_secs(60)).await?;
///     assert_eq!(users.get(42).await?.as_deref(), Some("Ada"));
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// The methods of [`Store`] return errors of these kinds: `Timeout` after the timeout;
/// `Unavailable` while Redis cannot be reached or is loading; `Denied`, `Full` and `ReadOnly` as
/// Redis refuses; `Codec` if the key holds something that is not a value of this store; `Closed`
/// outside a Tokio runtime and after the runtime of the connection has ended; and `Backend` for
/// anything else.
///
/// # Cancel safety
///
/// A dropped call does not send the commands that it has not sent yet. Commands that it has sent
/// take effect before any command that this process sends later for the same key on the same
/// connection.
pub struct RedisStore<V, C = DefaultCodec>(Arc<Inner<V, C>>);

struct Inner<V, C> {
    keyspace: Keyspace,
    layout: Layout<C>,
    lease_millis: u64,
    /// Identifies the data, for the fence that a chain puts around a plain store.
    domain: u64,
    invalidations: Invalidations,
    values: PhantomData<fn() -> V>,
}

impl<V, C> RedisStore<V, C> {
    pub(crate) fn new(
        connection: RedisConnection,
        namespace: Namespace,
        layout: Layout<C>,
        lease_millis: u64,
        invalidations: Invalidations,
    ) -> Self {
        let domain = connection.domain(namespace.name());
        let is_announced = invalidations == Invalidations::PubSub;
        let publication = Arc::new(Publication::new(namespace.prefix(), connection.database(), is_announced));
        let keyspace = Keyspace { connection, namespace, publication };
        Self(Arc::new(Inner { keyspace, layout, lease_millis, domain, invalidations, values: PhantomData }))
    }

    pub(crate) fn connection(&self) -> &RedisConnection {
        &self.0.keyspace.connection
    }

    /// Checks that the server lets its user run the commands that this store needs on its
    /// namespace. The README lists them.
    ///
    /// [`RedisStoreBuilder::connect`](crate::RedisStoreBuilder::connect) includes this check. If
    /// the connection is shared or lazy, call it when the application starts: a chain keeps running
    /// without a tier that refuses every call.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Denied` that names all commands that are not permitted, or the
    /// error of the server or the connection.
    pub async fn check_permissions(&self) -> Result<()> {
        permissions::check(&self.0.keyspace, self.0.layout.is_plain()).await
    }
}

impl<V, C> RedisStore<V, C> {
    /// Removes the markers with these ids.
    async fn release_markers(&self, markers: &[(&Key, u64)]) -> Result<()> {
        let keyspace = &self.0.keyspace;
        let release = |call, markers: Vec<_>| lease::release(keyspace, call, markers);
        all(keyspace.at_all(markers, |(key, _)| key, Grouping::Node, release).await)
    }
}

/// Returns the first error.
fn all(results: Vec<Result<()>>) -> Result<()> {
    results.into_iter().collect()
}

impl<V, C> Clone for RedisStore<V, C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V, C> fmt::Debug for RedisStore<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("connection", &self.0.keyspace.connection)
            .field("namespace", &self.0.keyspace.namespace.name())
            .field("plain", &self.0.layout.is_plain())
            .field("invalidations", &self.0.invalidations)
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
            .sharded(matches!(self.0.keyspace.connection.shared().servers, Servers::Cluster(_)))
            .domain(self.0.domain)
            .ttl_resolution(self.0.keyspace.connection.shared().timeout)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<V>>> {
        let Inner { keyspace, layout, .. } = &*self.0;
        match layout {
            Layout::Record(envelope) => keyspace.at(key, |call| read::read_record(keyspace, call, envelope, key)).await,
            Layout::Plain(_) => only(Box::pin(self.get_many(slice::from_ref(key))).await),
        }
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        only(self.lease_many(slice::from_ref(key)).await)
    }

    async fn claim(&self, key: &Key) -> Result<Claim> {
        self.claim_within(key, Duration::MAX).await
    }

    async fn claim_within(&self, key: &Key, life: Duration) -> Result<Claim> {
        only(self.claim_many_within(slice::from_ref(key), life).await)
    }

    async fn renew_claims(&self, claims: &[(Key, Ticket)], life: Duration) -> Result<()> {
        if self.0.layout.is_plain() {
            return Ok(());
        }
        let Inner { keyspace, lease_millis, .. } = &*self.0;
        let claims: Vec<_> = write_id::of_claims(claims).collect();
        let renew = |call, claims: Vec<_>| lease::renew(keyspace, call, claims, life, *lease_millis);
        all(keyspace.at_all(&claims, |(key, _)| key, Grouping::Node, renew).await)
    }

    async fn release(&self, key: &Key, ticket: Ticket) -> Result<()> {
        match write_id::of_claim(ticket) {
            Some(id) if !self.0.layout.is_plain() => self.release_markers(&[(key, id)]).await,
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
        let leases: Vec<_> = write_id::of_plain_leases(leases).collect();
        self.release_markers(&leases).await
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

    async fn take(&self, key: &Key) -> Result<Option<Entry<V>>> {
        let Inner { keyspace, layout, .. } = &*self.0;
        let take = |call| async move {
            match layout {
                Layout::Record(envelope) => take::take_record(keyspace, call, envelope, key).await,
                Layout::Plain(codec) => take::take_plain(keyspace, call, codec, key).await,
            }
        };
        keyspace.at(key, take).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        if lifetime.expiry.is_past(now) {
            return Ok(false);
        }
        let Inner { keyspace, layout, .. } = &*self.0;
        let touch = |call| async move {
            match layout {
                Layout::Record(envelope) => touch::touch_record(keyspace, call, envelope, key, lifetime, now).await,
                Layout::Plain(_) => touch::touch_plain(keyspace, call, key, lifetime).await,
            }
        };
        keyspace.at(key, touch).await
    }

    async fn clear(&self) -> Result<()> {
        clear::clear(&self.0.keyspace).await
    }

    async fn wait(&self) -> Result<()> {
        Ok(())
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<V>>>> {
        let Inner { keyspace, layout, .. } = &*self.0;
        match layout {
            Layout::Record(envelope) => {
                let read = |call, keys: Vec<_>| read::read_records(keyspace, call, envelope, keys);
                keyspace.at_all(keys, |key| key, Grouping::Node, read).await
            }
            Layout::Plain(codec) => {
                let read = |call, keys: Vec<_>| read::read_plain(keyspace, call, codec, keys);
                keyspace.at_all(keys, |key| key, Grouping::Key, read).await
            }
        }
    }

    async fn revalidate_many(&self, keys: &[(Key, Option<ETag>)]) -> Vec<Result<Revalidated<V>>> {
        let Inner { keyspace, layout, .. } = &*self.0;
        match layout {
            Layout::Record(envelope) => {
                let check = |call, keys: Vec<_>| revalidate::revalidate(keyspace, call, envelope, keys);
                keyspace.at_all(keys, |(key, _)| key, Grouping::Node, check).await
            }
            Layout::Plain(_) => {
                let keys: Vec<Key> = keys.iter().map(|(key, _)| key.clone()).collect();
                let read = self.get_many(&keys).await;
                read.into_iter().map(|entry| entry.map(Revalidated::Modified)).collect()
            }
        }
    }

    async fn server_time(&self) -> Result<Option<ServerTime>> {
        match &self.0.keyspace.connection.shared().servers {
            Servers::One(node) => Call::new(node).server_time().await,
            // Each node has a clock of its own.
            Servers::Cluster(_) => Ok(None),
        }
    }

    async fn inspect(&self, key: &Key) -> Result<Option<Inspection>> {
        let Inner { keyspace, layout, .. } = &*self.0;
        keyspace.at(key, |call| inspect::inspect(keyspace, call, layout.is_plain(), key)).await
    }

    fn invalidations(&self) -> Option<Arc<dyn InvalidationStream>> {
        let Keyspace { connection, publication, .. } = &self.0.keyspace;
        let is_tracking = match self.0.invalidations {
            Invalidations::Off => return None,
            Invalidations::Tracking => true,
            Invalidations::PubSub => false,
        };
        Some(Arc::new(Stream::new(connection, publication, is_tracking)))
    }

    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        self.lease_many_within(keys, Duration::MAX).await
    }

    async fn lease_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Ticket>> {
        if self.0.layout.is_plain() {
            return vec![Ok(Ticket::unconditional()); keys.len()];
        }
        let Inner { keyspace, lease_millis, .. } = &*self.0;
        let lease = |call, keys: Vec<_>| lease::lease(keyspace, call, keys, life, *lease_millis);
        keyspace.at_all(keys, |key| key, Grouping::Node, lease).await
    }

    async fn claim_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Claim>> {
        if self.0.layout.is_plain() {
            return vec![Ok(Claim::granted(Ticket::unconditional())); keys.len()];
        }
        let Inner { keyspace, lease_millis, .. } = &*self.0;
        let claim = |call, keys: Vec<_>| lease::claim(keyspace, call, keys, life, *lease_millis);
        keyspace.at_all(keys, |key| key, Grouping::Node, claim).await
    }

    async fn fill_many(&self, writes: Vec<Write<V>>) -> Vec<Result<bool>> {
        let Inner { keyspace, layout, .. } = &*self.0;
        let fill = |call, writes: Vec<_>| write::fill(keyspace, call, layout, writes);
        keyspace.at_all(&writes, |write| &write.key, Grouping::Node, fill).await
    }

    async fn set_many(&self, writes: Vec<Write<V>>) -> Vec<Result<()>> {
        let Inner { keyspace, layout, .. } = &*self.0;
        let set = |call, writes: Vec<_>| write::set(keyspace, call, layout, writes);
        keyspace.at_all(&writes, |write| &write.key, Grouping::Node, set).await
    }

    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        let keyspace = &self.0.keyspace;
        let del = |call, keys: Vec<_>| write::del(keyspace, call, keys);
        keyspace.at_all(keys, |key| key, Grouping::Node, del).await
    }
}
