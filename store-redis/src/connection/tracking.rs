//! The invalidation stream by client tracking: the server announces each change of a key of the
//! namespace, whoever makes it.
//!
//! The stream has a connection of its own. In broadcast mode the server sends its announcements at
//! the end of a cycle of its event loop, so the reply to a command may overtake the announcement of
//! an earlier write. The reply to the next command does not: when a heartbeat is answered, all
//! changes from before the heartbeat before it have been announced.
//!
//! The connection also subscribes to a channel that nobody publishes to. Otherwise the server would
//! buffer without limit for a client that does not read; with a subscription,
//! `client-output-buffer-limit pubsub` applies.

use std::{
    convert::Infallible,
    fmt,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cache_core::{Error, ErrorKind, Invalidation, InvalidationSink, InvalidationStream, Result, backend::write_id};
use futures_util::future::{Either, select};
use redis::{
    Client, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisError, Value,
    aio::{MultiplexedConnection, SendError},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    RedisConnection,
    call::Call,
    error,
    reply::{check, info_field},
};

/// The stream of the changes to keys with one prefix.
pub(crate) struct Tracking {
    connection: RedisConnection,
    prefix: Arc<str>,
}

impl Tracking {
    pub(crate) fn new(connection: RedisConnection, prefix: &str) -> Self {
        Self { connection, prefix: prefix.into() }
    }

    /// Runs the stream until it breaks.
    async fn track(&self, heartbeat: Duration, sink: Arc<dyn InvalidationSink>) -> Result<Infallible> {
        let events = Arc::new(Events::new(Arc::clone(&self.prefix), Arc::clone(&sink)));
        let mut session = self.within(self.connect(&events)).await?;
        sink.apply(Invalidation::Begin("tracking"));
        self.within(self.check_delivery(&mut session, &events)).await?;
        let mut previous = None;
        loop {
            let sent = Instant::now();
            self.within(self.beat(&mut session)).await?;
            if let Some(previous) = previous.replace(sent) {
                sink.apply(Invalidation::Proven(previous));
                // The first two follow each other at once.
                let next = sleep(heartbeat.saturating_sub(sent.elapsed()));
                if let Either::Left(_) = select(pin!(events.disconnected.notified()), pin!(next)).await {
                    return Err(closed());
                }
            }
        }
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.connection.shared().timeout();
        timeout(limit, work).await.unwrap_or_else(|_| Err(error::timed_out(limit)))
    }

    /// Connects, and asks the server to announce changes. When this returns, it does.
    async fn connect(&self, events: &Arc<Events>) -> Result<MultiplexedConnection> {
        let target = &self.connection.shared().target;
        let info = target.client.get_connection_info();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.clone().set_redis_settings(settings));
        let client = client.map_err(|error| error::invalid("the address", &error))?;
        let receiver = Arc::clone(events);
        let config = target.config.clone().set_push_sender(move |push| {
            receiver.receive(push);
            Ok::<(), SendError>(())
        });
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut session = connected.map_err(|error| error::connect_failed(&error, target.address()))?;
        let mut tracking = Pipeline::with_capacity(1);
        tracking.cmd("CLIENT").arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(&*self.prefix);
        let replies = ask(&mut session, &tracking).await?;
        let accepted = replies.into_iter().try_for_each(|reply| check(reply).map(drop));
        accepted.map_err(|error| refused("CLIENT TRACKING", &error))?;
        let subscribed = session.subscribe(format!("{}\\keepalive", self.prefix)).await;
        subscribed.map_err(|error| refused("SUBSCRIBE", &error::broken(&error)))?;
        Ok(session)
    }

    /// Changes a key and waits for the announcement. A proxy may accept the command and announce
    /// nothing.
    async fn check_delivery(&self, session: &mut MultiplexedConnection, events: &Events) -> Result<()> {
        let mut change = Pipeline::with_capacity(2);
        change.cmd("SET").arg(&*events.canary).arg("").arg("PX").arg(1000);
        change.cmd("UNLINK").arg(&*events.canary);
        match ask(session, &change).await?.into_iter().try_for_each(|reply| check(reply).map(drop)) {
            Ok(()) => {
                while !events.is_delivered.load(Ordering::SeqCst) {
                    events.delivered.notified().await;
                }
                Ok(())
            }
            // It cannot be checked. The tracking info of each heartbeat still is.
            Err(error) if matches!(error.kind(), ErrorKind::Full | ErrorKind::ReadOnly) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends one heartbeat, and checks that the server still is the primary that the store writes
    /// to and announces changes.
    async fn beat(&self, session: &mut MultiplexedConnection) -> Result<()> {
        let mut heartbeat = Pipeline::with_capacity(4);
        // PING fails while the server is loading.
        heartbeat.cmd("PING").cmd("INFO").arg("server").cmd("INFO").arg("replication");
        heartbeat.cmd("CLIENT").arg("TRACKINGINFO");
        let [ping, server, replication, tracking] =
            ask(session, &heartbeat).await?.try_into().map_err(|_| error::unexpected())?;
        check(ping)?;
        if info_field(replication, "role:").is_some_and(|role| role == "slave") {
            return Err(Error::new(ErrorKind::ReadOnly, "the Redis server has become a replica"));
        }
        if !is_on(&check(tracking)?) {
            return Err(Error::new(ErrorKind::Backend, "the Redis server does not track this client any more"));
        }
        let Some(run_id) = info_field(server, "run_id:") else { return Ok(()) };
        let shared = self.connection.shared();
        if shared.server().run_id().is_none_or(|known| known == run_id) {
            return Ok(());
        }
        // The store may not have noticed yet that its server has gone.
        let mut ping = Pipeline::with_capacity(1);
        ping.cmd("PING");
        let _ = Call::new(shared).ask(0, &ping).await;
        if shared.server().run_id().is_none_or(|known| known == run_id) {
            return Ok(());
        }
        let message = "the invalidation stream and the store are connected to different Redis servers";
        Err(Error::new(ErrorKind::Unavailable, message))
    }
}

impl InvalidationStream for Tracking {
    fn timeout(&self) -> Duration {
        self.connection.shared().timeout()
    }

    fn run(
        self: Arc<Self>,
        heartbeat: Duration,
        sink: Arc<dyn InvalidationSink>,
    ) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        Box::pin(async move {
            match self.track(heartbeat, sink).await {
                Ok(never) => match never {},
                Err(error) => error,
            }
        })
    }
}

impl fmt::Debug for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracking").field("connection", &self.connection).field("prefix", &self.prefix).finish()
    }
}

/// Receives the pushes of one connection, in the driver's task.
struct Events {
    prefix: Arc<str>,
    sink: Arc<dyn InvalidationSink>,
    /// The key by which the delivery is checked.
    canary: Box<str>,
    is_delivered: AtomicBool,
    delivered: Notify,
    disconnected: Notify,
}

impl Events {
    fn new(prefix: Arc<str>, sink: Arc<dyn InvalidationSink>) -> Self {
        let canary = format!("{prefix}{}", write_id::next()).into();
        let (delivered, disconnected) = (Notify::new(), Notify::new());
        Self { prefix, sink, canary, is_delivered: AtomicBool::new(false), delivered, disconnected }
    }

    fn receive(&self, PushInfo { kind, data }: PushInfo) {
        match (kind, data.as_slice()) {
            (PushKind::Invalidate, [Value::Nil]) => self.sink.apply(Invalidation::Everything),
            (PushKind::Invalidate, [Value::Array(keys)]) => keys.iter().for_each(|key| self.receive_key(key)),
            (PushKind::Disconnection, _) => self.disconnected.notify_one(),
            (PushKind::Subscribe, _) => {}
            _ => self.sink.apply(Invalidation::Unknown),
        }
    }

    fn receive_key(&self, key: &Value) {
        let key = match key {
            Value::BulkString(key) => key.as_slice(),
            Value::SimpleString(key) => key.as_bytes(),
            _ => return self.sink.apply(Invalidation::Unknown),
        };
        if key == self.canary.as_bytes() {
            self.is_delivered.store(true, Ordering::SeqCst);
            return self.delivered.notify_one();
        }
        let notice = key.strip_prefix(self.prefix.as_bytes()).map_or(Invalidation::Unknown, Invalidation::Key);
        self.sink.apply(notice);
    }
}

/// Returns the replies, including error replies of the server.
async fn ask(session: &mut MultiplexedConnection, commands: &Pipeline) -> Result<Vec<Value>> {
    let replies = session.send_packed_commands(commands, 0, commands.len()).await;
    replies.map_err(|error: RedisError| error::broken(&error))
}

/// Returns `true` if the reply to CLIENT TRACKINGINFO says that changes are announced.
fn is_on(info: &Value) -> bool {
    let is_flags = |key: &Value| {
        matches!(key, Value::BulkString(key) if key == b"flags")
            || matches!(key, Value::SimpleString(key) if key == "flags")
    };
    let has = |flags: &Value, name: &str| match flags {
        Value::Set(flags) | Value::Array(flags) => flags.iter().any(|flag| match flag {
            Value::BulkString(flag) => flag == name.as_bytes(),
            Value::SimpleString(flag) => flag == name,
            _ => false,
        }),
        _ => false,
    };
    let Value::Map(fields) = info else { return false };
    fields.iter().any(|(key, flags)| is_flags(key) && has(flags, "on") && has(flags, "bcast"))
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection of the invalidation stream was closed")
}

/// Returns the error for a command that the server refuses to its user, or does not know.
fn refused(command: &str, error: &Error) -> Error {
    let message = format!(
        "Redis refused {command}, which keeps tiers in memory coherent; grant what the README of store-redis lists, or \
         limit the tiers in memory by `Tier::max_ttl` and call `Tier::no_invalidations`"
    );
    Error::with_source(error.kind(), message, error.clone())
}
