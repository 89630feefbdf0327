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
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cache_core::{
    Error, ErrorKind, Invalidation, InvalidationSink, Result,
    backend::{lock, write_id},
};
use futures_util::future::{Either, select};
use redis::{
    Pipeline, ProtocolVersion, PushInfo, PushKind, Value,
    aio::{MultiplexedConnection, SendError},
};
use tokio::{sync::Notify, time::sleep};

use super::{
    RedisConnection, error,
    reply::check,
    session::{ask, check_primary, client_with, closed, within},
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
    pub(super) async fn run(&self, heartbeat: Duration, sink: Arc<dyn InvalidationSink>) -> Stop {
        let mut has_begun = false;
        let Err(error) = self.track(heartbeat, sink, &mut has_begun).await;
        // An error of the network says nothing about what the server can do.
        let is_refusal = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Backend);
        if is_refusal && !has_begun { Stop::Refused(error) } else { Stop::Ended(error) }
    }

    async fn track(
        &self,
        heartbeat: Duration,
        sink: Arc<dyn InvalidationSink>,
        has_begun: &mut bool,
    ) -> Result<Infallible> {
        let connection = self.connection.shared();
        let events = Arc::new(Events::new(Arc::clone(&self.prefix), Arc::clone(&sink)));
        let mut session = within(connection, self.connect(&events)).await?;
        within(connection, check_delivery(&mut session, &events)).await?;
        within(connection, self.beat(&mut session)).await?;
        events.begin();
        *has_begun = true;
        let mut previous = None;
        loop {
            let sent = Instant::now();
            within(self.connection.shared(), self.beat(&mut session)).await?;
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

    /// Connects, and asks the server to announce changes. When this returns, it does.
    async fn connect(&self, events: &Arc<Events>) -> Result<MultiplexedConnection> {
        let target = &self.connection.shared().target;
        let client = client_with(target, ProtocolVersion::RESP3)?;
        let receiver = Arc::clone(events);
        let config = target.config.clone().set_push_sender(move |push| {
            receiver.receive(push);
            Ok::<(), SendError>(())
        });
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut session = connected.map_err(|error| error::connect_failed(&error, target.address()))?;
        let mut tracking = Pipeline::with_capacity(1);
        tracking.cmd("CLIENT").arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(&*self.prefix);
        ask(&mut session, &tracking).await?;
        let subscribed = session.subscribe(format!("{}\\keepalive", self.prefix)).await;
        subscribed.map_err(|error| error::broken(&error))?;
        Ok(session)
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
        if !is_on(&check(tracking)?) {
            return Err(Error::new(ErrorKind::Backend, "the Redis server does not track this client any more"));
        }
        check_primary(self.connection.shared(), server, replication).await
    }
}

/// Why the stream is over.
pub(super) enum Stop {
    /// The server does not allow or support client tracking.
    Refused(Error),
    /// The stream has broken.
    Ended(Error),
}

/// Changes a key and waits for the announcement. A proxy may accept the command and announce
/// nothing.
async fn check_delivery(session: &mut MultiplexedConnection, events: &Events) -> Result<()> {
    let mut change = Pipeline::with_capacity(2);
    // It leaves nothing behind: an expired key would count in DBSIZE for some time.
    change.cmd("SET").arg(&*events.canary).arg("").arg("PX").arg(1).cmd("UNLINK").arg(&*events.canary);
    let [set, _] = ask(session, &change).await?.try_into().map_err(|_| error::unexpected())?;
    match check(set) {
        Ok(_) => {
            // As for a heartbeat: the announcement comes before the second reply.
            for _ in 0..2 {
                let mut ping = Pipeline::with_capacity(1);
                ping.cmd("PING");
                ask(session, &ping).await?;
            }
            if events.is_delivered.load(Ordering::SeqCst) {
                return Ok(());
            }
            let message = "the server accepts CLIENT TRACKING but does not announce changes";
            Err(Error::new(ErrorKind::Backend, message))
        }
        // It cannot be checked. The tracking info of each heartbeat still is.
        Err(error) if matches!(error.kind(), ErrorKind::Full | ErrorKind::ReadOnly) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Receives the pushes of one connection, in the driver's task.
struct Events {
    prefix: Arc<str>,
    sink: Arc<dyn InvalidationSink>,
    /// The key by which the delivery is checked.
    canary: Box<str>,
    is_delivered: AtomicBool,
    has_begun: Mutex<bool>,
    disconnected: Notify,
}

impl Events {
    fn new(prefix: Arc<str>, sink: Arc<dyn InvalidationSink>) -> Self {
        let canary = format!("{prefix}{}", write_id::next()).into();
        Self {
            prefix,
            sink,
            canary,
            is_delivered: AtomicBool::new(false),
            has_begun: Mutex::default(),
            disconnected: Notify::new(),
        }
    }

    fn begin(&self) {
        let mut has_begun = lock(&self.has_begun);
        self.sink.apply(Invalidation::Begin("tracking"));
        *has_begun = true;
    }

    /// Applies a notice. Before the begin nothing is applied, because nothing that was read until
    /// then counts.
    fn apply(&self, notice: Invalidation<'_>) {
        if *lock(&self.has_begun) {
            self.sink.apply(notice);
        }
    }

    fn receive(&self, PushInfo { kind, data }: PushInfo) {
        match (kind, data.as_slice()) {
            (PushKind::Invalidate, [Value::Nil]) => self.apply(Invalidation::Everything),
            (PushKind::Invalidate, [Value::Array(keys)]) => keys.iter().for_each(|key| self.receive_key(key)),
            (PushKind::Disconnection, _) => self.disconnected.notify_one(),
            (PushKind::Subscribe, _) => {}
            _ => self.apply(Invalidation::Unknown),
        }
    }

    fn receive_key(&self, key: &Value) {
        let key = match key {
            Value::BulkString(key) => key.as_slice(),
            Value::SimpleString(key) => key.as_bytes(),
            _ => return self.apply(Invalidation::Unknown),
        };
        if key == self.canary.as_bytes() {
            return self.is_delivered.store(true, Ordering::SeqCst);
        }
        if key == self.prefix.as_bytes() {
            // The counter of those who announce their writes by pub/sub.
            return;
        }
        let notice = key.strip_prefix(self.prefix.as_bytes()).map_or(Invalidation::Unknown, Invalidation::Key);
        self.apply(notice);
    }
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
