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
    ConnectionAddr, Pipeline, ProtocolVersion, PushInfo, PushKind, Value,
    aio::{MultiplexedConnection, SendError},
};
use tokio::{sync::Notify, time::sleep};

use super::{
    cluster::{
        Cluster,
        slot_reports::{SlotReport, SlotReports},
        slots::{SLOTS, slot_of},
    },
    error,
    node::Node,
    redirection::Redirection,
    reply::check,
    session::{ask, check_named, check_primary, client_of, closed, within},
};

/// The stream of the changes to keys with one prefix on one server.
pub(crate) struct Tracking {
    node: Arc<Node>,
    prefix: Arc<str>,
    shard: Option<Shard>,
}

/// The place of a server among those of a cluster.
pub(super) struct Shard {
    pub(super) cluster: Arc<Cluster>,
    /// The reports of the servers on their slots.
    pub(super) reports: Arc<SlotReports>,
    /// The place of this server in `reports`.
    pub(super) at: usize,
}

/// The number of heartbeats after which sentinels are asked again.
const BEATS_PER_QUESTION: u32 = 4;

/// The stream ends if its primaries do not hold all slots in more than this many heartbeats in a row.
const MAX_INCOMPLETE: u32 = 3;

impl Tracking {
    pub(crate) fn new(node: Arc<Node>, prefix: &str) -> Self {
        Self { node, prefix: prefix.into(), shard: None }
    }

    /// The stream of a server of a cluster.
    pub(super) fn of_shard(self, shard: Shard) -> Self {
        Self { shard: Some(shard), ..self }
    }

    /// Runs the stream until it breaks.
    pub(super) async fn run(&self, heartbeat: Duration, sink: Arc<dyn InvalidationSink>) -> Stop {
        let mut has_begun = false;
        let Err(error) = self.track(heartbeat, sink, &mut has_begun).await;
        // An error of the network says nothing about what the server can do.
        let is_redirection = error.source_as::<Redirection>().is_some();
        let is_refusal = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Backend) && !is_redirection;
        if is_refusal && !has_begun { Stop::Refused(error) } else { Stop::Ended(error) }
    }

    async fn track(
        &self,
        heartbeat: Duration,
        sink: Arc<dyn InvalidationSink>,
        has_begun: &mut bool,
    ) -> Result<Infallible> {
        let node = &self.node;
        let events = Arc::new(Events::new(Arc::clone(&self.prefix), self.canary(), Arc::clone(&sink)));
        let (mut session, address) = within(node, self.connect(&events)).await?;
        within(node, check_delivery(&mut session, &events)).await?;
        within(node, self.beat(&mut session)).await?;
        events.begin();
        *has_begun = true;
        let (mut previous, mut incomplete, mut beats) = (None, 0, 0_u32);
        loop {
            let sent = Instant::now();
            let has_changed = within(node, self.beat(&mut session)).await?;
            if has_changed {
                // Some servers announce nothing when they drop the keys of a slot that they have lost.
                sink.apply(Invalidation::Everything);
            }
            incomplete = self.count_incomplete(incomplete)?;
            beats += 1;
            if beats % BEATS_PER_QUESTION == 0 {
                within(node, check_named(node, &address)).await?;
            }
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
    async fn connect(&self, events: &Arc<Events>) -> Result<(MultiplexedConnection, ConnectionAddr)> {
        let client = client_of(&self.node, ProtocolVersion::RESP3).await?;
        let receiver = Arc::clone(events);
        let config = self.node.target.config.clone().set_push_sender(move |push| {
            receiver.receive(push);
            Ok::<(), SendError>(())
        });
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut session =
            connected.map_err(|error| error::connect_failed(&error, client.get_connection_info().addr()))?;
        let mut tracking = Pipeline::with_capacity(1);
        tracking.cmd("CLIENT").arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(&*self.prefix);
        ask(&mut session, &tracking).await?;
        let subscribed = session.subscribe(format!("{}\\keepalive", self.prefix)).await;
        subscribed.map_err(|error| error::broken(&error))?;
        Ok((session, client.get_connection_info().addr().clone()))
    }

    /// Returns a key by which the delivery is checked, or `None` if the server holds no slot for one.
    fn canary(&self) -> Option<Box<str>> {
        if self.shard.as_ref().is_some_and(|shard| !shard.cluster.is_owner(&self.node)) {
            return None;
        }
        let mut candidates = (0..u32::from(SLOTS) * 16).map(|_| format!("{}{}", self.prefix, write_id::next()));
        let is_held = |key: &String| {
            self.shard.as_ref().is_none_or(|shard| shard.cluster.holds(&self.node, slot_of(key.as_bytes())))
        };
        candidates.find(is_held).map(String::into_boxed_str)
    }

    /// Counts heartbeats during which the servers that are followed do not hold all slots.
    ///
    /// # Errors
    ///
    /// Returns an error after several in a row.
    fn count_incomplete(&self, incomplete: u32) -> Result<u32> {
        match self.shard.as_ref().map_or(Ok(()), |shard| shard.reports.check()) {
            Ok(()) => Ok(0),
            Err(error) if incomplete >= MAX_INCOMPLETE => Err(error),
            Err(_) => Ok(incomplete + 1),
        }
    }

    /// Sends one heartbeat, and checks that the server still is the primary that the store writes
    /// to and announces changes. Returns `true` if it holds other slots than before.
    async fn beat(&self, session: &mut MultiplexedConnection) -> Result<bool> {
        let mut heartbeat = Pipeline::with_capacity(6);
        // PING fails while the server is loading.
        heartbeat.cmd("PING").cmd("INFO").arg("server").cmd("INFO").arg("replication");
        heartbeat.cmd("CLIENT").arg("TRACKINGINFO");
        if self.shard.is_some() {
            heartbeat.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("NODES");
        }
        let mut replies = ask(session, &heartbeat).await?;
        let report = replies.split_off(replies.len().min(4));
        let [ping, server, replication, tracking] = replies.try_into().map_err(|_| error::unexpected())?;
        check(ping)?;
        let mut has_changed = false;
        if let Some(shard) = &self.shard {
            let [info, nodes] = report.try_into().map_err(|_| error::unexpected())?;
            has_changed = shard.reports.note(shard.at, SlotReport::parse(info, nodes)?)?;
        }
        if !is_on(&check(tracking)?) {
            return Err(Error::new(ErrorKind::Backend, "the Redis server does not track this client any more"));
        }
        check_primary(&self.node, &server, &replication).await?;
        Ok(has_changed)
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
    let Some(canary) = &events.canary else { return Ok(()) };
    let mut change = Pipeline::with_capacity(2);
    // It leaves nothing behind: an expired key would count in DBSIZE for some time.
    change.cmd("SET").arg(&**canary).arg("").arg("PX").arg(1).cmd("UNLINK").arg(&**canary);
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
    canary: Option<Box<str>>,
    is_delivered: AtomicBool,
    has_begun: Mutex<bool>,
    disconnected: Notify,
}

impl Events {
    fn new(prefix: Arc<str>, canary: Option<Box<str>>, sink: Arc<dyn InvalidationSink>) -> Self {
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
        if self.canary.as_ref().is_some_and(|canary| key == canary.as_bytes()) {
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
