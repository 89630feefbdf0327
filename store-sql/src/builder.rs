//! How a store is described.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use cache_core::{
    Codec, Error, ErrorKind, Result, SharedClock, SystemClock,
    backend::{Envelope, check_namespace},
};

use crate::{
    database::Database,
    names,
    rows::Rows,
    runtime,
    store::{Inner, SqlStore},
    sweep::Sweeper,
    table,
};

/// The codec of a store for which none is chosen: bincode with the feature `bincode`; without it there is none, and
/// [`codec`](SqlStoreBuilder::codec) must choose.
#[cfg(feature = "bincode")]
pub type DefaultCodec = cache_core::codec::Bincode;
/// The codec of a store for which none is chosen: bincode with the feature `bincode`; without it there is none, and
/// [`codec`](SqlStoreBuilder::codec) must choose.
#[cfg(not(feature = "bincode"))]
pub type DefaultCodec = ();

/// Describes a [`SqlStore`].
#[derive(Clone)]
pub struct SqlStoreBuilder<V, C> {
    place: Place,
    namespace: String,
    table: String,
    create_table: bool,
    codec: C,
    schema: Option<u32>,
    lease_ttl: Duration,
    deadline: Duration,
    connections: u32,
    sweep_every: Option<Duration>,
    clock: SharedClock,
    values: PhantomData<fn() -> V>,
}

/// Where the table is.
#[derive(Clone)]
pub(crate) enum Place {
    Url(String),
    Database(Database),
}

impl<V, C: Default> SqlStoreBuilder<V, C> {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            namespace: String::new(),
            table: "cache_entries".to_owned(),
            create_table: false,
            codec: C::default(),
            schema: None,
            lease_ttl: Duration::from_secs(10),
            deadline: Duration::from_secs(2),
            connections: 10,
            sweep_every: Some(Duration::from_mins(1)),
            clock: SystemClock::shared(),
            values: PhantomData,
        }
    }
}

impl<V, C> SqlStoreBuilder<V, C> {
    /// Which rows are this store's. Required.
    ///
    /// 1 to 64 characters of `A-Z a-z 0-9 _ . - /`. Two stores of one namespace in one table are one cache; give each type
    /// of values its own.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The table: 1 to 64 characters (PostgreSQL: 63) of `A-Z a-z 0-9 _`. Default `cache_entries`. Any number of namespaces
    /// share one.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Creates the table if it is not there. Who migrates by hand finds the statements in the [crate](crate)'s documentation.
    pub fn create_table(mut self) -> Self {
        self.create_table = true;
        self
    }

    /// How values are encoded; see [`cache_core::codec`].
    pub fn codec<D>(self, codec: D) -> SqlStoreBuilder<V, D> {
        let Self { place, namespace, table, create_table, codec: _, schema, .. } = self;
        let Self { lease_ttl, deadline, connections, sweep_every, clock, values, .. } = self;
        SqlStoreBuilder {
            place,
            namespace,
            table,
            create_table,
            codec,
            schema,
            lease_ttl,
            deadline,
            connections,
            sweep_every,
            clock,
            values,
        }
    }

    /// The name of the values' schema, such as `user/2`. A record of another is an error of kind `Codec`, never another
    /// value.
    ///
    /// Default is the name of the type with its path, so that moving the type loses its records; a
    /// name given here outlives that.
    ///
    /// Codecs that write neither names nor types of fields, which are `Bincode` and `Postcard`, add
    /// the [shape](cache_core::Codec::shape) of the type, also to a name given here: records from
    /// before a field, a variant, or a type was renamed, moved or changed are errors of kind
    /// `Codec`. Change the name when the meaning changes and the fields do not, for example from
    /// seconds to milliseconds.
    pub fn schema(mut self, name: &str) -> Self {
        self.schema = Some(Envelope::schema_tag(name));
        self
    }

    /// How long a ticket holds at most where there is no value yet: longer than a load from below takes. Default 10 s. A lookup
    /// asks for less ([`Store::lease_within`](cache_core::Store::lease_within)).
    ///
    /// A fill after that is refused, and a write leaves the key absent: safe, at the price of one more read below.
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.lease_ttl = ttl;
        self
    }

    /// How long a call may take, waiting for a connection and trying again included. Default 2 s.
    ///
    /// `clear` takes a step for every 500 entries, each under this deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How many connections there are at most, 1 to 1024. Default 10. It has no effect on a pool of the application.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// How often a task in the background removes what has expired, `None` for never. Default 60 s; it comes up to a half
    /// of that earlier, by chance.
    ///
    /// The task removes 500 rows at a time, of all namespaces of the table, and ends with the last handle of the store. What
    /// has expired is a miss at once: this only makes room.
    pub fn sweep_every(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.sweep_every = interval.into();
        self
    }

    /// The clock that entries expire by once they were read; the chain above must use the same. Default [`SystemClock`].
    ///
    /// In the table they expire by the clock of the database.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Connects, looks whether the table is fit, and creates it if that was asked for.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if something of this description cannot be used; of kind `Backend` if the table is missing or
    /// of another shape; of kind `Closed` outside of a Tokio runtime; else as the database fails.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves no connection, but perhaps the table.
    pub async fn connect(self) -> Result<SqlStore<V, C>>
    where
        C: Codec<V>,
    {
        let create = self.create_table;
        let deadline = self.deadline;
        let inner = self.finish()?;
        table::prepare(&inner.database, deadline, &inner.rows, create).await?;
        Ok(SqlStore::new(inner))
    }

    /// Connects at the first call, so that an application starts while the database is down. Nobody looks at the table.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if something of this description cannot be used, such as `create_table`, for which there must
    /// be a connection; of kind `Closed` outside of a Tokio runtime.
    pub fn connect_lazy(self) -> Result<SqlStore<V, C>>
    where
        C: Codec<V>,
    {
        if self.create_table {
            return Err(invalid("connect_lazy() cannot create the table; connect() can"));
        }
        self.finish().map(SqlStore::new)
    }

    fn finish(self) -> Result<Inner<V, C>>
    where
        C: Codec<V>,
    {
        runtime::check()?;
        check_namespace(&self.namespace)?;
        let lease_millis = u64::try_from(self.lease_ttl.as_millis()).unwrap_or(u64::MAX);
        // A day is far beyond any load, and what is left over takes room that long.
        if !(1..=86_400_000).contains(&lease_millis) {
            return Err(invalid(
                "the lease_ttl must be between 1 ms and a day; a few times what a load takes is right",
            ));
        }
        if self.deadline.is_zero() || !(1..=1024).contains(&self.connections) {
            return Err(invalid("a store needs a deadline above zero and 1 to 1024 connections"));
        }
        let day = Duration::from_hours(24);
        if self.sweep_every.is_some_and(|interval| !(Duration::from_millis(1)..=day).contains(&interval)) {
            return Err(invalid("sweep_every must be between 1 ms and a day, or None"));
        }
        let database = match self.place {
            Place::Url(url) => Database::at(&url, self.connections, self.deadline)?,
            Place::Database(database) => database,
        };
        names::table(&self.table, database.dialect.longest_name())?;
        let rows = Arc::new(Rows::new(database.dialect, self.table, self.namespace));
        let sweeper = self
            .sweep_every
            .map(|interval| Sweeper::start(database.clone(), self.deadline, Arc::clone(&rows), interval));
        let schema = self.schema.unwrap_or_else(|| Envelope::schema_tag(std::any::type_name::<V>()));
        let schema = Envelope::shaped_tag(schema, self.codec.shape());
        Ok(Inner {
            database,
            rows,
            envelope: Envelope::new(self.codec, schema),
            clock: self.clock,
            server_clock: std::sync::Mutex::new(None),
            deadline: self.deadline,
            lease_millis,
            _sweeper: sweeper,
            values: PhantomData,
        })
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Shows neither the URL nor the pool.
impl<V, C> fmt::Debug for SqlStoreBuilder<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStoreBuilder")
            .field("namespace", &self.namespace)
            .field("table", &self.table)
            .field("create_table", &self.create_table)
            .field("deadline", &self.deadline)
            .field("lease_ttl", &self.lease_ttl)
            .field("sweep_every", &self.sweep_every)
            .finish_non_exhaustive()
    }
}
