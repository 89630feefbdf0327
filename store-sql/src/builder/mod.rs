//! The builder of a store.

mod connect;
mod target;

use std::{fmt, marker::PhantomData, time::Duration};

use cache_core::{SharedClock, SystemClock, backend::Envelope};

use self::target::Target;

/// Configures a [`SqlStore`](crate::SqlStore).
#[derive(Clone)]
pub struct SqlStoreBuilder<V, C> {
    target: Target,
    namespace: String,
    table: String,
    create_table: bool,
    announce_changes: bool,
    codec: C,
    schema: Option<u32>,
    lease_ttl: Duration,
    timeout: Duration,
    connections: u32,
    sweep_every: Option<Duration>,
    clock: SharedClock,
    values: PhantomData<fn() -> V>,
}

impl<V, C: Default> SqlStoreBuilder<V, C> {
    fn new(target: Target) -> Self {
        Self {
            target,
            namespace: String::new(),
            table: "cache_entries".to_owned(),
            create_table: false,
            announce_changes: false,
            codec: C::default(),
            schema: None,
            lease_ttl: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            connections: 10,
            sweep_every: Some(Duration::from_mins(1)),
            clock: SystemClock::shared(),
            values: PhantomData,
        }
    }
}

impl<V, C> SqlStoreBuilder<V, C> {
    /// Sets the namespace, which determines the rows of this store. Required.
    ///
    /// A namespace has 1 to 64 characters of `A-Z a-z 0-9 _ . - /`. Two stores of one namespace in
    /// one table are one cache. Give each type of values its own namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the name of the table: 1 to 64 characters (PostgreSQL: 63) of `A-Z a-z 0-9 _`. Default:
    /// `cache_entries`. Any number of namespaces can share a table.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Creates the table if it does not exist. The [crate's documentation](crate) lists the
    /// statements for manual migrations.
    pub fn create_table(mut self) -> Self {
        self.create_table = true;
        self
    }

    /// Announces the changes of the table, so that the tiers of a chain above this store follow the
    /// changes that other processes and programs make. Needs PostgreSQL. Default: off.
    ///
    /// Triggers on the table send a notification for each statement that changes what readers see,
    /// whoever runs it. With [`create_table`](Self::create_table), they are installed if they are
    /// missing, which needs the ownership of the table. The [crate's documentation](crate) lists
    /// the statements for manual migrations, and the cost: announced writes commit one after the
    /// other.
    ///
    /// The stream of the store ([`Store::invalidations`](cache_core::Store::invalidations)) listens
    /// on a connection of its own, in addition to those of the pool.
    pub fn announce_changes(mut self) -> Self {
        self.announce_changes = true;
        self
    }

    /// Sets the codec that encodes the values; see [`cache_core::codec`].
    pub fn codec<D>(self, codec: D) -> SqlStoreBuilder<V, D> {
        let Self { target, namespace, table, create_table, announce_changes, codec: _, schema, .. } = self;
        let Self { lease_ttl, timeout, connections, sweep_every, clock, values, .. } = self;
        SqlStoreBuilder {
            target,
            namespace,
            table,
            create_table,
            announce_changes,
            codec,
            schema,
            lease_ttl,
            timeout,
            connections,
            sweep_every,
            clock,
            values,
        }
    }

    /// Sets the name of the values' schema, such as `user/2`. A record of another schema reads as
    /// an error of kind `Codec`, never as a value.
    ///
    /// Default: the name of the type with its path. Renaming or moving the type then loses its
    /// records, which a name set here prevents.
    ///
    /// `Bincode` and `Postcard` write neither names nor types of fields. For these codecs the
    /// [shape](cache_core::Codec::shape) of the type is added to the name: records from before a
    /// field, a variant or a type was renamed, moved or changed are errors of kind `Codec`. Change
    /// the name when the meaning changes and the fields do not, for example from seconds to
    /// milliseconds.
    pub fn schema(mut self, name: &str) -> Self {
        self.schema = Some(Envelope::schema_tag(name));
        self
    }

    /// Sets how long a ticket of an absent key is valid at most. Default: 10 s. Choose it longer
    /// than a load from the tiers below takes. A lookup asks for a shorter time
    /// ([`Store::lease_within`](cache_core::Store::lease_within)), and a claim can be renewed
    /// ([`Store::renew_claims`](cache_core::Store::renew_claims)).
    ///
    /// After that time, a fill is refused and a write leaves the key absent. This is safe and costs
    /// one more read of the tiers below.
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.lease_ttl = ttl;
        self
    }

    /// Sets the timeout of a call, which includes the wait for a connection and the retries.
    /// Default: 2 s.
    ///
    /// `clear` takes one step for every 500 entries, and each step has this timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the largest number of connections, 1 to 1024. Default: 10. It has no effect on a pool
    /// of the application.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the interval at which a background task removes expired rows; `None` for no task.
    /// Default: 60 s. A run starts up to half an interval earlier, at random.
    ///
    /// The task removes 500 rows at a time, in all namespaces of the table, and ends with the last
    /// handle of the store. It only makes room: expired entries read as misses at once.
    pub fn sweep_every(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.sweep_every = interval.into();
        self
    }

    /// Sets the clock by which entries expire after they were read. The chain above must use the
    /// same clock. Default: [`SystemClock`].
    ///
    /// In the table, entries expire by the clock of the database.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }
}

/// Shows neither the URL nor the pool.
impl<V, C> fmt::Debug for SqlStoreBuilder<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStoreBuilder")
            .field("namespace", &self.namespace)
            .field("table", &self.table)
            .field("create_table", &self.create_table)
            .field("announce_changes", &self.announce_changes)
            .field("timeout", &self.timeout)
            .field("lease_ttl", &self.lease_ttl)
            .field("sweep_every", &self.sweep_every)
            .finish_non_exhaustive()
    }
}
