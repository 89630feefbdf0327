//! The store.

use std::{fmt, marker::PhantomData, slice, sync::Arc, time::Duration};

#[cfg(feature = "postgres")]
use cache_core::InvalidationStream;
use cache_core::{
    Claim, Codec, Entry, Key, Lifetime, Moment, Profile, Result, Revalidated, Store, Ticket, Write,
    backend::{ETag, Envelope, Inspection, only, write_id},
};

#[cfg(feature = "postgres")]
use crate::listen::PostgresChanges;
use crate::{
    clear::{clear, sweep_batch},
    codec::DefaultCodec,
    database::Database,
    inspect::inspect,
    keyspace::Keyspace,
    lease, read, revalidate,
    sweep::Sweeper,
    take, touch, write,
};

/// A store of values of type `V` in a table of MySQL, MariaDB, PostgreSQL or SQLite, encoded by the
/// codec `C`.
///
/// Clones share one store. The [crate's documentation](crate) lists the guarantees and the limits.
///
/// # Examples
///
/// A database in memory, with the feature `sqlite`:
///
/// ```
/// use std::time::Duration;
///
/// use cache_core::DelegateCache;
/// use store_sql::{SqlStore, sqlx::sqlite::SqlitePoolOptions};
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     // The database exists as long as this connection.
///     let one = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
///     let pool = one.connect("sqlite::memory:").await?;
///     let store: SqlStore<String> = SqlStore::on_sqlite(pool).namespace("users").create_table().connect().await?;
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
/// `Unavailable` while the database cannot be reached; `Denied`, `Full` and `ReadOnly` as the
/// database refuses; `Codec` if the row holds something that is not a value of this store; `Closed`
/// outside a Tokio runtime and in one that has ended; and `Backend` for anything else, such as a
/// table that is missing or has another schema.
///
/// # Cancel safety
///
/// A dropped call closes its connection, and the database rolls back what is not committed. A
/// commit that was in progress takes effect before any later write of the same key.
pub struct SqlStore<V, C = DefaultCodec>(Arc<Inner<V, C>>);

pub(crate) struct Inner<V, C> {
    pub(crate) keyspace: Keyspace,
    pub(crate) envelope: Envelope<C>,
    pub(crate) lease_millis: u64,
    /// `true` if the table announces its changes.
    #[cfg(feature = "postgres")]
    pub(crate) announces: bool,
    /// The task ends with the last handle of the store.
    pub(crate) _sweeper: Option<Sweeper>,
    pub(crate) values: PhantomData<fn() -> V>,
}

impl<V, C> SqlStore<V, C> {
    pub(crate) fn new(inner: Inner<V, C>) -> Self {
        Self(Arc::new(inner))
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.keyspace.database
    }

    /// Removes all expired rows, in all namespaces of the table and in batches.
    ///
    /// A background task does so regularly; see
    /// [`sweep_every`](crate::SqlStoreBuilder::sweep_every).
    ///
    /// # Errors
    ///
    /// Returns the errors of the database.
    pub async fn sweep(&self) -> Result<()> {
        let Keyspace { database, timeout, rows, .. } = &self.0.keyspace;
        while sweep_batch(database, *timeout, rows).await? {}
        Ok(())
    }
}

impl<V, C> Clone for SqlStore<V, C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Shows the kind of the database, the table and the namespace, not the address or the credentials.
impl<V, C> fmt::Debug for SqlStore<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore")
            .field("database", &self.0.keyspace.database)
            .field("table", &self.0.keyspace.rows.table)
            .field("namespace", &self.0.keyspace.rows.namespace)
            .finish_non_exhaustive()
    }
}

impl<V, C: Codec<V>> Store for SqlStore<V, C>
where
    V: Clone + Send + Sync + 'static,
{
    type Value = V;

    fn profile(&self) -> Profile {
        let Keyspace { database, timeout, .. } = &self.0.keyspace;
        Profile::new(database.dialect.name()).retains(true).claims(true).markers(true).ttl_resolution(*timeout)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<V>>> {
        only(self.get_many(slice::from_ref(key)).await)
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
        lease::renew(&self.0.keyspace, write_id::of_claims(claims), life, self.0.lease_millis).await
    }

    async fn release(&self, key: &Key, ticket: Ticket) -> Result<()> {
        match write_id::of_claim(ticket) {
            Some(id) => lease::release(&self.0.keyspace, [(key, id)].into_iter()).await,
            None => Ok(()),
        }
    }

    async fn lease_within(&self, key: &Key, life: Duration) -> Result<Ticket> {
        only(self.lease_many_within(slice::from_ref(key), life).await)
    }

    async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
        lease::release(&self.0.keyspace, write_id::of_plain_leases(leases)).await
    }

    async fn fill(&self, write: Write<V>) -> Result<bool> {
        only(self.fill_many(vec![write]).await)
    }

    async fn set(&self, write: Write<V>) -> Result<()> {
        only(self.set_many(vec![write]).await)
    }

    async fn del(&self, key: &Key) -> Result<()> {
        write::remove(&self.0.keyspace, slice::from_ref(key)).await
    }

    async fn take(&self, key: &Key) -> Result<Option<Entry<V>>> {
        take::take(&self.0.keyspace, &self.0.envelope, key).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime, now: Moment) -> Result<bool> {
        if lifetime.expiry.is_past(now) {
            return Ok(false);
        }
        touch::touch(&self.0.keyspace, &self.0.envelope, key, lifetime, now).await
    }

    async fn clear(&self) -> Result<()> {
        let Keyspace { database, timeout, rows, .. } = &self.0.keyspace;
        clear(database, *timeout, rows).await
    }

    async fn wait(&self) -> Result<()> {
        Ok(())
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<V>>>> {
        if keys.is_empty() {
            return Vec::new();
        }
        let Inner { keyspace, envelope, .. } = &*self.0;
        let entries = read::read(keyspace, envelope, keys).await;
        entries.unwrap_or_else(|error| vec![Err(error); keys.len()])
    }

    async fn revalidate_many(&self, keys: &[(Key, Option<ETag>)]) -> Vec<Result<Revalidated<V>>> {
        let revalidated = revalidate::revalidate(&self.0.keyspace, &self.0.envelope, keys).await;
        revalidated.unwrap_or_else(|error| keys.iter().map(|_| Err(error.clone())).collect())
    }

    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        self.lease_many_within(keys, Duration::MAX).await
    }

    async fn lease_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Ticket>> {
        if keys.is_empty() {
            return Vec::new();
        }
        let leases = lease::lease(&self.0.keyspace, keys, life, self.0.lease_millis).await;
        leases.unwrap_or_else(|error| vec![Err(error); keys.len()])
    }

    async fn claim_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Claim>> {
        if keys.is_empty() {
            return Vec::new();
        }
        let claims = lease::claim(&self.0.keyspace, keys, life, self.0.lease_millis).await;
        match claims {
            Ok(claims) => claims.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); keys.len()],
        }
    }

    async fn fill_many(&self, writes: Vec<Write<V>>) -> Vec<Result<bool>> {
        write::fill(&self.0.keyspace, &self.0.envelope, &writes).await
    }

    async fn set_many(&self, writes: Vec<Write<V>>) -> Vec<Result<()>> {
        write::set(&self.0.keyspace, &self.0.envelope, &writes).await
    }

    async fn inspect(&self, key: &Key) -> Result<Option<Inspection>> {
        inspect(&self.0.keyspace, key).await
    }

    #[cfg(feature = "postgres")]
    fn invalidations(&self) -> Option<Arc<dyn InvalidationStream>> {
        let Inner { keyspace: Keyspace { database, timeout, rows, .. }, announces, .. } = &*self.0;
        let stream = || PostgresChanges::of_entries(database.clone(), *timeout, &rows.table, &rows.namespace);
        announces.then(|| Arc::new(stream()) as _)
    }

    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        if keys.is_empty() {
            return Vec::new();
        }
        vec![write::remove(&self.0.keyspace, keys).await; keys.len()]
    }
}
