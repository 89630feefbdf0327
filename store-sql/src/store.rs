//! The store.

use std::{
    fmt,
    marker::PhantomData,
    slice,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cache_core::{
    Claim, Codec, Entry, Key, Profile, Result, SharedClock, Store, Ticket, Write,
    backend::{Envelope, ServerClock, write_id},
};

use crate::{
    builder::{DefaultCodec, Place, SqlStoreBuilder},
    call::Work,
    clear,
    database::Database,
    read::only,
    rows::Rows,
    sweep::Sweeper,
};

/// A store of values of type `V` in a table of MySQL, MariaDB, PostgreSQL or SQLite, encoded by the codec `C`.
///
/// A clone is the same store. See the [crate](crate) for what it promises.
///
/// # Errors
///
/// What the methods of [`Store`] fail with: `Timeout` after the deadline, `Unavailable` while the database cannot be
/// reached, `Denied`, `Full` and `ReadOnly` as it refuses, `Codec` for what is no value of this store, `Closed` outside of a
/// Tokio runtime or in one that has ended, and `Backend` for anything else, among it a table that is missing or of another shape.
///
/// # Cancel safety
///
/// A dropped call closes its connection, and the database rolls back what was not committed. What was being committed takes
/// effect before any later write of the same key.
pub struct SqlStore<V, C = DefaultCodec>(Arc<Inner<V, C>>);

pub(crate) struct Inner<V, C> {
    pub(crate) database: Database,
    pub(crate) rows: Arc<Rows>,
    pub(crate) envelope: Envelope<C>,
    pub(crate) clock: SharedClock,
    pub(crate) server_clock: Mutex<Option<ServerClock>>,
    pub(crate) deadline: Duration,
    pub(crate) lease_millis: u64,
    /// It ends with the last handle.
    pub(crate) _sweeper: Option<Sweeper>,
    pub(crate) values: PhantomData<fn() -> V>,
}

impl<V> SqlStore<V> {
    /// Starts to describe a store with connections of its own, at `mysql://user:password@host:port/database`,
    /// `postgres://user:password@host:port/database` or `sqlite://path/of/the/file`, each with the feature of its name.
    ///
    /// The parameters of the URL are those of sqlx. A SQLite file is created if there is none, unless the URL has a `mode`.
    pub fn builder(url: impl Into<String>) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Place::Url(url.into()))
    }

    /// Starts to describe a store on the connections of another: another namespace or another table.
    pub fn builder_on<W, D>(other: &SqlStore<W, D>) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Place::Database(other.0.database.clone()))
    }

    /// Starts to describe a store on a pool of the application.
    ///
    /// Its settings are the application's. Give `acquire_timeout` at least the store's deadline.
    #[cfg(feature = "mysql")]
    pub fn on_mysql(pool: sqlx::MySqlPool) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Place::Database(Database::mysql(pool)))
    }

    /// Starts to describe a store on a pool of the application.
    ///
    /// Its settings are the application's. Give `acquire_timeout` at least the store's deadline.
    #[cfg(feature = "postgres")]
    pub fn on_postgres(pool: sqlx::PgPool) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Place::Database(Database::postgres(pool)))
    }

    /// Starts to describe a store on a pool of the application.
    ///
    /// Its settings are the application's. Give it WAL and a `busy_timeout`, and `acquire_timeout` at least the store's
    /// deadline. A database in memory must have one connection that is never closed; a dropped call closes its connection.
    #[cfg(feature = "sqlite")]
    pub fn on_sqlite(pool: sqlx::SqlitePool) -> SqlStoreBuilder<V, DefaultCodec> {
        SqlStoreBuilder::new(Place::Database(Database::sqlite(pool)))
    }
}

impl<V, C> SqlStore<V, C> {
    pub(crate) fn new(inner: Inner<V, C>) -> Self {
        Self(Arc::new(inner))
    }

    /// Removes what has expired, in all namespaces of the table and in batches, and returns when nothing expired is left.
    ///
    /// The background does it once in a while; see [`sweep_every`](SqlStoreBuilder::sweep_every).
    ///
    /// # Errors
    ///
    /// As the database fails.
    pub async fn sweep(&self) -> Result<()> {
        while clear::sweep(&self.0.database, self.0.deadline, &self.0.rows).await? {}
        Ok(())
    }
}

impl<V, C> Clone for SqlStore<V, C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Shows what it is, not where it leads nor as whom.
impl<V, C> fmt::Debug for SqlStore<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore")
            .field("database", &self.0.database)
            .field("table", &self.0.rows.table)
            .field("namespace", &self.0.rows.namespace)
            .finish_non_exhaustive()
    }
}

impl<V, C: Codec<V>> Store for SqlStore<V, C>
where
    V: Clone + Send + Sync + 'static,
{
    type Value = V;

    fn profile(&self) -> Profile {
        let Inner { database, deadline, .. } = &*self.0;
        Profile::new(database.dialect.name()).retains(true).claims(true).markers(true).ttl_resolution(*deadline)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<V>>> {
        only(self.get_many(slice::from_ref(key)).await)
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        only(self.lease_many(slice::from_ref(key)).await)
    }

    async fn claim(&self, key: &Key) -> Result<Claim> {
        self.0.claim(key).await
    }

    async fn release(&self, key: &Key, ticket: Ticket) -> Result<()> {
        match ticket.version().filter(|&id| write_id::is_claim(id)) {
            Some(id) => self.0.release([(key, id)].into_iter()).await,
            None => Ok(()),
        }
    }

    async fn lease_within(&self, key: &Key, life: Duration) -> Result<Ticket> {
        only(self.lease_many_within(slice::from_ref(key), life).await)
    }

    async fn release_leases(&self, leases: &[(Key, Ticket)]) -> Result<()> {
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
        self.0.remove(slice::from_ref(key)).await
    }

    async fn clear(&self) -> Result<()> {
        clear::clear(&self.0.database, self.0.deadline, &self.0.rows).await
    }

    async fn wait(&self) -> Result<()> {
        Ok(())
    }

    async fn get_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry<V>>>> {
        if keys.is_empty() {
            return Vec::new();
        }
        self.0.read(keys).await.unwrap_or_else(|error| vec![Err(error); keys.len()])
    }

    async fn lease_many(&self, keys: &[Key]) -> Vec<Result<Ticket>> {
        self.lease_many_within(keys, Duration::MAX).await
    }

    async fn lease_many_within(&self, keys: &[Key], life: Duration) -> Vec<Result<Ticket>> {
        if keys.is_empty() {
            return Vec::new();
        }
        self.0.lease(keys, life).await.unwrap_or_else(|error| vec![Err(error); keys.len()])
    }

    async fn fill_many(&self, writes: Vec<Write<V>>) -> Vec<Result<bool>> {
        self.0.fill(&writes).await
    }

    async fn set_many(&self, writes: Vec<Write<V>>) -> Vec<Result<()>> {
        self.0.set(&writes).await
    }

    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        if keys.is_empty() {
            return Vec::new();
        }
        vec![self.0.remove(keys).await; keys.len()]
    }
}

impl<V, C> Inner<V, C> {
    pub(crate) async fn run<W: Work>(&self, work: &W) -> Result<W::Output> {
        let done = self.database.run(self.deadline, work).await;
        if done.is_err() {
            // The next database may have another clock.
            self.set_server_clock(None);
        }
        done
    }

    pub(crate) fn server_clock(&self) -> Option<ServerClock> {
        *self.server_clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_server_clock(&self, clock: Option<ServerClock>) {
        *self.server_clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }
}
