//! How a store is described.

use std::{fmt, time::Duration};

use cache_core::{Codec, Error, ErrorKind, Result, SharedClock, backend::Envelope};

use crate::{
    connection::RedisConnection, connection_builder::RedisConnectionBuilder, layout::Layout, namespace::Namespace,
    store::RedisStore,
};

/// The codec of a store for which none is chosen: bincode with the feature `bincode`; without it there is none, and
/// [`codec`](RedisStoreBuilder::codec) must choose.
#[cfg(feature = "bincode")]
pub type DefaultCodec = cache_core::codec::Bincode;
/// The codec of a store for which none is chosen: bincode with the feature `bincode`; without it there is none, and
/// [`codec`](RedisStoreBuilder::codec) must choose.
#[cfg(not(feature = "bincode"))]
pub type DefaultCodec = ();

/// Describes a [`RedisStore`], on a connection of its own or on one that others share.
#[derive(Clone)]
pub struct RedisStoreBuilder<V, C, On> {
    on: On,
    namespace: String,
    codec: C,
    schema: Option<u32>,
    lease_ttl: Duration,
    plain: bool,
    values: std::marker::PhantomData<fn() -> V>,
}

impl<V, C: Default, On> RedisStoreBuilder<V, C, On> {
    pub(crate) fn new(on: On) -> Self {
        Self {
            on,
            namespace: String::new(),
            codec: C::default(),
            schema: None,
            lease_ttl: Duration::from_secs(10),
            plain: false,
            values: std::marker::PhantomData,
        }
    }
}

impl<V, C, On> RedisStoreBuilder<V, C, On> {
    /// Which keys are this store's: those that begin with `namespace:`. Required.
    ///
    /// 1 to 64 characters of `A-Z a-z 0-9 _ . - /`. A `:` ends the namespace in a key, so one inside would let namespaces
    /// overlap; `*`, `?`, `[` and `\` are patterns to the scan that clears it. Two stores of one namespace are one cache;
    /// give each type of values its own.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How values are encoded; see [`cache_core::codec`].
    pub fn codec<D>(self, codec: D) -> RedisStoreBuilder<V, D, On> {
        let Self { on, namespace, codec: _, schema, lease_ttl, plain, values } = self;
        RedisStoreBuilder { on, namespace, codec, schema, lease_ttl, plain, values }
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

    /// Reads and writes values without an envelope, for programs that know nothing of this cache.
    ///
    /// There are no leases then, and [`Profile::leases`](cache_core::Profile::leases) says so: the chain guards against
    /// late fills of this process, not against those of others. Nothing tells a value of another codec or type from one of
    /// this.
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    fn finish(self, connect: impl FnOnce(On) -> Result<RedisConnection>) -> Result<RedisStore<V, C>>
    where
        C: Codec<V>,
    {
        let namespace = Namespace::new(&self.namespace)?;
        let lease_millis = u64::try_from(self.lease_ttl.as_millis()).unwrap_or(u64::MAX);
        // A day is far beyond any load, and what is left over takes memory that long.
        if !(1..=86_400_000).contains(&lease_millis) {
            let message = "the lease_ttl must be between 1 ms and a day; a few times what a load takes is right";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let schema = self.schema.unwrap_or_else(|| Envelope::schema_tag(std::any::type_name::<V>()));
        let schema = Envelope::shaped_tag(schema, self.codec.shape());
        let layout =
            if self.plain { Layout::Plain(self.codec) } else { Layout::Record(Envelope::new(self.codec, schema)) };
        Ok(RedisStore::new(connect(self.on)?, namespace, layout, lease_millis))
    }
}

impl<V, C> RedisStoreBuilder<V, C, RedisConnection> {
    /// The store. [`RedisStore::check_permissions`] tells whether the server's user may do what it needs.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if the namespace or the lease's TTL cannot be used.
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

    /// See [`RedisConnectionBuilder::deadline`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.on = self.on.deadline(deadline);
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
    /// Of kind `InvalidInput` if the namespace or the lease's TTL cannot be used; of kind `Denied` if a permission is missing; else
    /// as [`RedisConnectionBuilder::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves no connection.
    pub async fn connect(self) -> Result<RedisStore<V, C>>
    where
        C: Codec<V>,
    {
        let store = self.connect_lazy()?;
        store.connection().ready().await?;
        store.check_permissions().await?;
        Ok(store)
    }

    /// Connects at the first call, so that an application starts while Redis is down.
    ///
    /// # Errors
    ///
    /// Of kind `InvalidInput` if the namespace or the lease's TTL cannot be used; else as
    /// [`RedisConnectionBuilder::connect_lazy`].
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
            .finish_non_exhaustive()
    }
}
