//! The builder of a store.

use std::{fmt, time::Duration};

use cache_core::{
    Codec, Result, SharedClock,
    backend::{Envelope, lease_millis},
};

use crate::{
    codec::DefaultCodec,
    connection::{
        RedisConnection, Servers, builder::RedisConnectionBuilder, error, invalidations::Invalidations,
        target::RedisTarget,
    },
    record::{layout::Layout, namespace::Namespace},
    store::RedisStore,
};

/// Configures a [`RedisStore`], on its own connection or on a shared one.
#[derive(Clone)]
pub struct RedisStoreBuilder<V, C, On> {
    on: On,
    namespace: String,
    codec: C,
    schema: Option<u32>,
    lease_ttl: Duration,
    plain: bool,
    invalidations: Invalidations,
    values: std::marker::PhantomData<fn() -> V>,
}

impl<V> RedisStore<V> {
    /// Returns a builder for a store with its own connection to a URL, to a
    /// [cluster](RedisTarget::cluster), to the primary that [sentinels](RedisTarget::sentinel) name, or
    /// with the settings of the application's own [`redis::Client`] or [`redis::ConnectionInfo`]; see
    /// [`RedisConnection::builder`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use store_redis::{RedisStore, redis};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let client = redis::Client::open("redis://app:secret@cache.example/3")?;
    ///     let users: RedisStore<String> = RedisStore::builder(&client).namespace("users").connect().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn builder(target: impl Into<RedisTarget>) -> RedisStoreBuilder<V, DefaultCodec, RedisConnectionBuilder> {
        RedisStoreBuilder::new(RedisConnection::builder(target))
    }

    /// Returns a builder for a store on a shared connection.
    pub fn builder_on(connection: &RedisConnection) -> RedisStoreBuilder<V, DefaultCodec, RedisConnection> {
        RedisStoreBuilder::new(connection.clone())
    }
}

impl<V, C: Default, On> RedisStoreBuilder<V, C, On> {
    fn new(on: On) -> Self {
        Self {
            on,
            namespace: String::new(),
            codec: C::default(),
            schema: None,
            lease_ttl: Duration::from_secs(10),
            plain: false,
            invalidations: Invalidations::default(),
            values: std::marker::PhantomData,
        }
    }
}

impl<V, C, On> RedisStoreBuilder<V, C, On> {
    /// Sets the namespace: the store owns the keys that begin with `namespace:`. Required.
    ///
    /// A namespace has 1 to 64 characters of `A-Z a-z 0-9 _ . - /`. A `:` ends the namespace in a
    /// key, so one inside would let namespaces overlap; `*`, `?`, `[` and `\` are patterns to the
    /// scan that clears it. Two stores of one namespace are one cache. Give each type of values its
    /// own namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the codec that encodes the values; see [`cache_core::codec`].
    pub fn codec<D>(self, codec: D) -> RedisStoreBuilder<V, D, On> {
        let Self { on, namespace, codec: _, schema, lease_ttl, plain, invalidations, values } = self;
        RedisStoreBuilder { on, namespace, codec, schema, lease_ttl, plain, invalidations, values }
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

    /// Reads and writes values without an envelope, to share them with programs that do not know
    /// this cache.
    ///
    /// There are no leases then, as [`Profile::leases`](cache_core::Profile::leases) reports: the
    /// chain guards against late fills of this process, but not of others. Values of another codec
    /// or type are not detected. The age, the load time and the validator of an entry are not kept.
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Sets how the store learns what others change, which keeps the tiers in memory above it
    /// coherent. Default: [`Invalidations::Tracking`].
    ///
    /// With [`Invalidations::PubSub`] the store announces each of its writes, which costs the server
    /// some microseconds. Set it in every process that writes to the namespace, also in those without
    /// a chain. A number of the namespace, the Redis key `<namespace>:`, counts the announcements.
    pub fn invalidations(mut self, invalidations: Invalidations) -> Self {
        self.invalidations = invalidations;
        self
    }

    fn finish(self, connect: impl FnOnce(On) -> Result<RedisConnection>) -> Result<RedisStore<V, C>>
    where
        C: Codec<V>,
    {
        let namespace = Namespace::new(&self.namespace)?;
        let lease_millis = lease_millis(self.lease_ttl)?;
        let schema = self.schema.unwrap_or_else(|| Envelope::schema_tag(std::any::type_name::<V>()));
        let schema = Envelope::shaped_tag(schema, self.codec.shape());
        let layout =
            if self.plain { Layout::Plain(self.codec) } else { Layout::Record(Envelope::new(self.codec, schema)) };
        let connection = connect(self.on)?;
        if self.invalidations == Invalidations::PubSub && matches!(connection.shared().servers, Servers::Cluster(_)) {
            return Err(error::no_pubsub_in_cluster());
        }
        Ok(RedisStore::new(connection, namespace, layout, lease_millis, self.invalidations))
    }
}

impl<V, C> RedisStoreBuilder<V, C, RedisConnection> {
    /// Builds the store. Call [`RedisStore::check_permissions`] to check that the server's user has
    /// the permissions.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the namespace or the lease's TTL is invalid, or for
    /// [`Invalidations::PubSub`] on a cluster.
    pub fn build(self) -> Result<RedisStore<V, C>>
    where
        C: Codec<V>,
    {
        self.finish(Ok)
    }
}

impl<V, C> RedisStoreBuilder<V, C, RedisConnectionBuilder> {
    /// See [`RedisConnectionBuilder::connections`].
    pub fn connections(mut self, connections: usize) -> Self {
        self.on = self.on.connections(connections);
        self
    }

    /// See [`RedisConnectionBuilder::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.on = self.on.timeout(timeout);
        self
    }

    /// See [`RedisConnectionBuilder::clock`].
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.on = self.on.clock(clock);
        self
    }

    /// See [`RedisConnectionBuilder::trust_restarts`].
    pub fn trust_restarts(mut self, trust: bool) -> Self {
        self.on = self.on.trust_restarts(trust);
        self
    }

    /// See [`RedisConnectionBuilder::wait_for_replicas`].
    pub fn wait_for_replicas(mut self, replicas: usize) -> Self {
        self.on = self.on.wait_for_replicas(replicas);
        self
    }

    /// See [`RedisConnectionBuilder::root_certificate`].
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.on = self.on.root_certificate(pem);
        self
    }

    /// Connects, and [checks the permissions](RedisStore::check_permissions).
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the namespace or the lease's TTL is invalid, one
    /// of kind `Denied` if a permission is missing, or an error of
    /// [`RedisConnectionBuilder::connect`].
    ///
    /// # Cancel safety
    ///
    /// If dropped, it leaves no connection.
    pub async fn connect(self) -> Result<RedisStore<V, C>>
    where
        C: Codec<V>,
    {
        let store = self.connect_lazy()?;
        store.connection().shared().connect().await?;
        store.check_permissions().await?;
        Ok(store)
    }

    /// Connects at the first call, so that an application can start while Redis is down.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the namespace or the lease's TTL is invalid, or
    /// an error of [`RedisConnectionBuilder::connect_lazy`].
    pub fn connect_lazy(self) -> Result<RedisStore<V, C>>
    where
        C: Codec<V>,
    {
        self.finish(RedisConnectionBuilder::connect_lazy)
    }
}

impl<V, C, On: fmt::Debug> fmt::Debug for RedisStoreBuilder<V, C, On> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("on", &self.on)
            .field("namespace", &self.namespace)
            .field("lease_ttl", &self.lease_ttl)
            .field("plain", &self.plain)
            .field("invalidations", &self.invalidations)
            .finish_non_exhaustive()
    }
}
