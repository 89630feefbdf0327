//! The store.

use std::{fmt, marker::PhantomData, slice, sync::Arc};

use cache_core::{Codec, Entry, Envelope, ErrorKind, Expiry, Key, Moment, Opened, Profile, Result};
use cache_core::{Store, Ticket, Ttl, Write};
use redis::{Cmd, Pipeline, Value, cmd};

use crate::{
    builder::{DefaultCodec, RedisStoreBuilder},
    call::Call,
    connection::{RedisConnection, RedisConnectionBuilder},
    error,
    layout::{Layout, Lifetime},
    namespace::Namespace,
    scripts, write_id,
};

/// A store of values of type `V` in Redis, encoded by the codec `C`.
///
/// A clone is the same store. See the [crate](crate) for what it promises.
///
/// # Errors
///
/// What the methods of [`Store`] fail with: `Timeout` after the deadline, `Unavailable` while Redis cannot be reached or is
/// loading, `Denied`, `Full` and `ReadOnly` as Redis refuses, `Codec` for what is no value of this store, and `Backend` for
/// anything else.
///
/// # Cancel safety
///
/// A dropped call leaves nothing behind. What it had not sent yet is not sent; what it had sent takes effect before
/// anything that is sent later for the same key by this process on the same connection.
pub struct RedisStore<V, C = DefaultCodec>(Arc<Inner<V, C>>);

struct Inner<V, C> {
    connection: RedisConnection,
    namespace: Namespace,
    layout: Layout<C>,
    lease_millis: u64,
    values: PhantomData<fn() -> V>,
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
        Self(Arc::new(Inner { connection, namespace, layout, lease_millis, values: PhantomData }))
    }

    pub(crate) fn connection(&self) -> &RedisConnection {
        &self.0.connection
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
        Profile::new("redis").leases(!self.0.layout.is_plain()).ttl_resolution(self.0.connection.shared().deadline)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry<V>>> {
        only(self.get_many(slice::from_ref(key)).await)
    }

    async fn lease(&self, key: &Key) -> Result<Ticket> {
        only(self.lease_many(slice::from_ref(key)).await)
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
        if self.0.layout.is_plain() {
            return vec![Ok(Ticket::unconditional()); keys.len()];
        }
        let lease = |key| {
            let mut lease = scripts::LEASE.run(&self.0.namespace.key(key));
            lease.arg(Envelope::lease(write_id::next())).arg(self.0.lease_millis);
            (self.0.link_of(key), lease)
        };
        let call = self.0.connection.shared().call();
        let replies = call.each(Some(&scripts::LEASE), keys.iter().map(lease).collect()).await;
        let ticket = |reply| {
            let id = error::bytes(reply)?.and_then(|id| id.try_into().ok()).ok_or_else(error::unexpected)?;
            Ok(Ticket::at(u64::from_le_bytes(id)))
        };
        replies.into_iter().map(|reply| reply.and_then(ticket)).collect()
    }

    async fn fill_many(&self, writes: Vec<Write<V>>) -> Vec<Result<bool>> {
        self.0.fill(&writes).await.unwrap_or_else(|error| vec![Err(error); writes.len()])
    }

    async fn set_many(&self, writes: Vec<Write<V>>) -> Vec<Result<()>> {
        self.0.set(&writes).await.unwrap_or_else(|error| vec![Err(error); writes.len()])
    }

    async fn del_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        let call = self.0.connection.shared().call();
        let replies = call.each(None, keys.iter().map(|key| self.0.unlink(key)).collect()).await;
        replies.into_iter().map(|reply| reply.map(drop)).collect()
    }
}

/// The one result of a batch of one.
fn only<T>(results: Vec<Result<T>>) -> Result<T> {
    results.into_iter().next().unwrap_or_else(|| Err(error::unexpected()))
}

impl<V, C: Codec<V>> Inner<V, C> {
    fn link_of(&self, key: &Key) -> usize {
        self.connection.shared().link_of(key)
    }

    fn now(&self) -> Moment {
        self.connection.shared().clock.now()
    }

    fn unlink(&self, key: &Key) -> (usize, Cmd) {
        let mut unlink = cmd("UNLINK");
        unlink.arg(self.namespace.key(key));
        (self.link_of(key), unlink)
    }

    async fn read(&self, envelope: &Envelope<C>, keys: &[Key]) -> Result<Vec<Result<Option<Entry<V>>>>> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let (call, link) = (self.connection.shared().call(), self.link_of(first));
        let mut read = Pipeline::with_capacity(1);
        read.cmd(if keys.len() == 1 { "GET" } else { "MGET" });
        for key in keys {
            read.arg(self.namespace.key(key));
        }
        let asked = self.now();
        let replies = match call.ask(link, &read).await? {
            reply if keys.len() == 1 => vec![reply],
            Value::Array(replies) if replies.len() == keys.len() => replies,
            _ => return Err(error::unexpected()),
        };
        let mut results = Vec::with_capacity(keys.len());
        for reply in replies {
            results.push(self.entry(&call, link, envelope, reply, asked).await);
        }
        Ok(results)
    }

    async fn entry(
        &self,
        call: &Call<'_>,
        link: usize,
        envelope: &Envelope<C>,
        reply: Value,
        asked: Moment,
    ) -> Result<Option<Entry<V>>> {
        let Some(bytes) = error::bytes(reply)? else { return Ok(None) };
        let Opened::Value(value, life) = envelope.open(&bytes)? else { return Ok(None) };
        let mut expiry = Expiry::Never;
        if life.expires.is_some() {
            // Counted from before the asking: on the way back the life went on.
            let server_now = call.server_clock(link).await?.latest(asked);
            expiry = Expiry::after(asked, life.remaining(server_now).map_or(Ttl::Never, Ttl::After));
        }
        Ok((!expiry.is_past(self.now())).then(|| Entry::new(value, expiry)))
    }

    /// A value of others carries no deadline; it is read together with what remains of its key, or the two might not
    /// belong together.
    async fn read_plain(&self, codec: &C, keys: &[Key]) -> Result<Vec<Result<Option<Entry<V>>>>> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let mut read = Pipeline::with_capacity(2 * keys.len());
        read.atomic();
        for key in keys {
            let key = self.namespace.key(key);
            read.cmd("GET").arg(&key).cmd("PTTL").arg(&key);
        }
        let asked = self.now();
        let Value::Array(replies) = self.connection.shared().call().ask(self.link_of(first), &read).await? else {
            return Err(error::unexpected());
        };
        if replies.len() != 2 * keys.len() {
            return Err(error::unexpected());
        }
        let mut replies = replies.into_iter();
        let mut results = Vec::with_capacity(keys.len());
        while let (Some(value), Some(remaining)) = (replies.next(), replies.next()) {
            results.push(self.plain_entry(codec, value, remaining, asked));
        }
        Ok(results)
    }

    fn plain_entry(&self, codec: &C, value: Value, remaining: Value, asked: Moment) -> Result<Option<Entry<V>>> {
        let Some(bytes) = error::bytes(value)? else { return Ok(None) };
        let ttl = match error::integer(remaining)? {
            -1 => Ttl::Never,
            millis => Ttl::After(std::time::Duration::from_millis(u64::try_from(millis).unwrap_or(0))),
        };
        let expiry = Expiry::after(asked, ttl);
        if expiry.is_past(self.now()) {
            return Ok(None);
        }
        Ok(Some(Entry::new(codec.decode(&bytes)?, expiry)))
    }

    /// The server's time, for the lives of records to be written; 0 where nothing notes it.
    async fn server_now(&self, call: &Call<'_>, writes: &[Write<V>]) -> Result<(Moment, u64)> {
        let server_clock = match writes.first() {
            Some(first) if !self.layout.is_plain() => Some(call.server_clock(self.link_of(&first.key)).await?),
            _ => None,
        };
        let now = self.now();
        Ok((now, server_clock.map_or(0, |clock| clock.earliest(now))))
    }

    /// The command that installs these bytes, by `script` if it depends on the ticket.
    fn install(&self, script: &scripts::Script, write: &Write<V>, bytes: &[u8], millis: Option<u64>) -> (usize, Cmd) {
        let key = self.namespace.key(&write.key);
        let mut install = match write.ticket.version() {
            Some(version) if !self.layout.is_plain() => {
                let mut run = script.run(&key);
                run.arg(version.to_le_bytes().as_slice());
                run
            }
            _ => {
                let mut set = cmd("SET");
                set.arg(key);
                set
            }
        };
        install.arg(bytes);
        if let Some(millis) = millis {
            install.arg("PX").arg(millis);
        }
        (self.link_of(&write.key), install)
    }

    async fn fill(&self, writes: &[Write<V>]) -> Result<Vec<Result<bool>>> {
        let call = self.connection.shared().call();
        let (now, server_now) = self.server_now(&call, writes).await?;
        let mut results: Vec<Result<bool>> = writes.iter().map(|_| Ok(false)).collect();
        let (mut places, mut commands) = (Vec::new(), Vec::new());
        for (at, write) in writes.iter().enumerate() {
            let Lifetime::Millis(millis) = Lifetime::of(&write.entry, now, 0) else { continue };
            // The id stays the ticket's: a fill voids no ticket of another.
            match self.layout.seal(write.entry.value(), millis, write.ticket.version(), server_now) {
                Ok(bytes) => {
                    places.push(at);
                    commands.push(self.install(&scripts::FILL, write, &bytes, millis));
                }
                Err(error) => results[at] = Err(error),
            }
        }
        for (at, reply) in places.into_iter().zip(call.each(Some(&scripts::FILL), commands).await) {
            results[at] = reply.and_then(|reply| match reply {
                Value::Int(filled) => Ok(filled == 1),
                Value::Okay => Ok(true),
                _ => Err(error::unexpected()),
            });
        }
        Ok(results)
    }

    async fn set(&self, writes: &[Write<V>]) -> Result<Vec<Result<()>>> {
        let call = self.connection.shared().call();
        let (now, server_now) = self.server_now(&call, writes).await?;
        let mut refused = Vec::with_capacity(writes.len());
        let mut commands = Vec::with_capacity(writes.len());
        for write in writes {
            let sealed = match Lifetime::of(&write.entry, now, 1) {
                Lifetime::Millis(millis) => {
                    let sealed = self.layout.seal(write.entry.value(), millis, None, server_now);
                    sealed.map(|bytes| self.install(&scripts::SET, write, &bytes, millis))
                }
                Lifetime::Over => Ok(self.unlink(&write.key)),
            };
            // What cannot be written must not leave the older entry there.
            let (command, error) = match sealed {
                Ok(command) => (command, None),
                Err(error) => (self.unlink(&write.key), Some(error)),
            };
            commands.push(command);
            refused.push(error);
        }
        let versioned = writes.iter().any(|write| write.ticket.version().is_some());
        let replies = call.each(versioned.then_some(&scripts::SET), commands).await;
        let mut results: Vec<Result<()>> = replies
            .into_iter()
            .zip(refused)
            .map(|(reply, refused)| refused.map_or_else(|| reply.map(drop), Err))
            .collect();
        self.remove_refused(&call, writes, &mut results).await;
        Ok(results)
    }

    /// Removes the older entries of what Redis had no room for; a removal it takes even then.
    async fn remove_refused(&self, call: &Call<'_>, writes: &[Write<V>], results: &mut [Result<()>]) {
        let full = |result: &Result<()>| matches!(result, Err(error) if error.kind() == ErrorKind::Full);
        let places: Vec<usize> = (0..results.len()).filter(|&at| full(&results[at])).collect();
        let unlinks = places.iter().map(|&at| self.unlink(&writes[at].key)).collect();
        for (at, removed) in places.iter().zip(call.each(None, unlinks).await) {
            if let Err(error) = &results[*at] {
                results[*at] = Err(error::full(error.clone(), removed.is_ok()));
            }
        }
    }

    /// Unlinks the keys of the namespace, a page of the scan at a time.
    ///
    /// Every key that is there from the beginning to the end of a scan is found by it. A marker that comes meanwhile belongs
    /// to a reader who began after the tiers below were cleared.
    async fn clear(&self) -> Result<()> {
        let shared = self.connection.shared();
        // What was sent before on other links is to be applied before.
        for link in 1..shared.links() {
            let mut ping = Pipeline::with_capacity(1);
            ping.cmd("PING");
            shared.call().ask(link, &ping).await?;
        }
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = Pipeline::with_capacity(1);
            scan.cmd("SCAN").arg(&cursor).arg("MATCH").arg(self.namespace.pattern()).arg("COUNT").arg(1000);
            let [next, page] = error::array(shared.call().ask(0, &scan).await?)?;
            cursor = error::bytes(next)?.ok_or_else(error::unexpected)?;
            let Value::Array(keys) = page else { return Err(error::unexpected()) };
            if !keys.is_empty() {
                let mut unlink = Pipeline::with_capacity(1);
                unlink.cmd("UNLINK");
                for key in keys {
                    unlink.arg(error::bytes(key)?.ok_or_else(error::unexpected)?);
                }
                shared.call().ask(0, &unlink).await?;
            }
            if cursor == b"0" {
                return Ok(());
            }
        }
    }
}
