//! The queue of requests to one connection.
//!
//! Requests that are made at about the same time go out together: in one pipeline, and single reads
//! in one MGET. What a message costs this process and the server is then shared by many calls. Nothing
//! waits for a batch to grow: a request goes out as soon as the tasks that are ready have run.
//!
//! A task of its own sends the batches, so that no call depends on another one being polled. A
//! request whose call was dropped before is not sent. While only a few requests are in flight, calls
//! send theirs themselves, because waking that task would cost more than it saves.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::Poll,
};

use cache_core::Result;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
};

use super::{error, link::LastReply};

/// What a call asks the server.
pub(super) enum Request {
    /// The string at this key.
    Get(Vec<u8>),
    /// These commands, in this order.
    Commands(Vec<Cmd>),
    /// The commands of a transaction.
    Transaction(Pipeline),
}

/// The replies, one per command; for a transaction one.
type Replies = Result<Vec<Value>>;

struct Queued {
    request: Request,
    reply: oneshot::Sender<Replies>,
}

/// A handle to the queue. The task ends with it.
pub(super) struct Queue {
    requests: mpsc::Sender<Queued>,
    connection: MultiplexedConnection,
    load: Arc<Load>,
    last_reply: LastReply,
}

/// The requests that have no reply yet.
#[derive(Default)]
struct Load {
    /// Those in the queue. A request must not overtake them: its key may be theirs.
    waiting: AtomicUsize,
    /// The messages to the driver.
    in_flight: AtomicUsize,
}

/// A message to the driver.
struct InFlight(Arc<Load>);

impl InFlight {
    fn new(load: &Arc<Load>) -> Self {
        load.in_flight.fetch_add(1, Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The messages that are in flight before calls use the queue.
const MAX_DIRECT: usize = 4;

/// The requests that may wait in the queue. Further calls wait until there is room.
const MAX_QUEUED: usize = 1024;

/// The requests that go out together.
const MAX_BATCH: usize = 256;

/// The largest number of keys of an MGET: the server does nothing else meanwhile.
const MAX_READS: usize = 64;

/// The batches that are sent before the reply to the first of them has come. The driver has room for
/// more, so each is on its way, in this order, once it was polled.
const MAX_IN_FLIGHT: usize = 64;

impl Queue {
    /// Starts a queue for a connection, which it tells `last_reply` of.
    pub(super) fn start(connection: MultiplexedConnection, last_reply: LastReply) -> Self {
        let (requests, receive) = mpsc::channel(MAX_QUEUED);
        let load = Arc::default();
        tokio::spawn(run(receive, connection.clone(), Arc::clone(&load), last_reply.clone()));
        Self { requests, connection, load, last_reply }
    }

    /// Returns the replies to a request, including error replies.
    ///
    /// # Errors
    ///
    /// Returns the error of the connection, which is then of no more use.
    pub(super) async fn ask(&self, request: Request) -> Replies {
        let is_quiet = self.load.waiting.load(Acquire) == 0 && self.load.in_flight.load(Relaxed) < MAX_DIRECT;
        if is_quiet {
            let _in_flight = InFlight::new(&self.load);
            let replies = send(request.into_message(), self.connection.clone()).await;
            return replies.inspect(|_| self.last_reply.note());
        }
        let (reply, replied) = oneshot::channel();
        // Its task ends before the queue only if the runtime does.
        let permit = self.requests.reserve().await.map_err(|_| error::closed())?;
        self.load.waiting.fetch_add(1, Relaxed);
        permit.send(Queued { request, reply });
        replied.await.unwrap_or_else(|_| Err(error::closed()))
    }
}

async fn run(
    mut requests: mpsc::Receiver<Queued>,
    connection: MultiplexedConnection,
    load: Arc<Load>,
    last_reply: LastReply,
) {
    let mut in_flight = FuturesUnordered::new();
    let mut queued = Vec::new();
    loop {
        let next = poll_fn(|context| {
            while let Poll::Ready(Some(())) = in_flight.poll_next_unpin(context) {}
            if in_flight.len() >= MAX_IN_FLIGHT {
                return Poll::Pending;
            }
            requests.poll_recv_many(context, &mut queued, MAX_BATCH)
        });
        if next.await == 0 {
            break;
        }
        if !in_flight.is_empty() || queued.len() > 1 {
            // Other tasks that are ready may have requests as well.
            yield_now().await;
            while queued.len() < MAX_BATCH
                && let Ok(request) = requests.try_recv()
            {
                queued.push(request);
            }
        }
        let count = queued.len();
        for batch in batches(queued.drain(..)) {
            let (connection, last_reply, sending) = (connection.clone(), last_reply.clone(), InFlight::new(&load));
            let mut sent = Box::pin(async move {
                batch.send(connection, last_reply).await;
                drop(sending);
            });
            // The first poll hands it over to the driver, so batches keep their order.
            if poll_fn(|context| Poll::Ready(sent.as_mut().poll(context).is_pending())).await {
                in_flight.push(sent);
            }
        }
        load.waiting.fetch_sub(count, Release);
    }
    while in_flight.next().await.is_some() {}
}

/// What is sent to the driver at once.
#[derive(Default)]
struct Message {
    pipeline: Pipeline,
    is_transaction: bool,
}

impl Request {
    fn into_message(self) -> Message {
        match self {
            Self::Get(key) => {
                let mut get = cmd("GET");
                get.arg(key);
                Message::of(vec![get])
            }
            Self::Commands(commands) => Message::of(commands),
            Self::Transaction(pipeline) => Message { pipeline, is_transaction: true },
        }
    }
}

impl Message {
    fn of(commands: Vec<Cmd>) -> Self {
        let mut message = Self { pipeline: Pipeline::with_capacity(commands.len()), is_transaction: false };
        message.add(commands);
        message
    }

    fn add(&mut self, commands: Vec<Cmd>) {
        for command in commands {
            self.pipeline.add_command(command);
        }
    }
}

/// Sends a message and returns the replies, one per command; for a transaction one.
async fn send(Message { pipeline, is_transaction }: Message, mut connection: MultiplexedConnection) -> Replies {
    // The replies of a transaction before its last one are skipped.
    let (skipped, count) = if is_transaction { (pipeline.len() + 1, 1) } else { (0, pipeline.len()) };
    connection.send_packed_commands(&pipeline, skipped, count).await.map_err(|error| error::broken(&error))
}

/// Requests that go out together.
#[derive(Default)]
struct Batch {
    message: Message,
    /// For each request how many replies it gets, and where they go.
    parts: Vec<(usize, oneshot::Sender<Replies>)>,
    /// Reads, which follow the other commands.
    reads: Vec<(Vec<u8>, oneshot::Sender<Replies>)>,
}

/// Divides requests into batches. Only a transaction is alone.
fn batches(requests: impl Iterator<Item = Queued>) -> Vec<Batch> {
    let mut batches = vec![Batch::default()];
    for Queued { request, reply } in requests {
        if reply.is_closed() {
            continue;
        }
        let batch = batches.last_mut().expect("it is never empty");
        match request {
            Request::Get(key) => batch.reads.push((key, reply)),
            Request::Commands(commands) => {
                batch.parts.push((commands.len(), reply));
                batch.message.add(commands);
            }
            Request::Transaction(_) => {
                batches.push(Batch { message: request.into_message(), parts: vec![(1, reply)], reads: Vec::new() });
                batches.push(Batch::default());
            }
        }
    }
    batches.retain(|batch| !batch.parts.is_empty() || !batch.reads.is_empty());
    batches
}

impl Batch {
    /// Sends the batch, and hands out the replies.
    async fn send(self, connection: MultiplexedConnection, last_reply: LastReply) {
        let Self { mut message, parts, reads } = self;
        let (keys, readers): (Vec<_>, Vec<_>) = reads.into_iter().unzip();
        for keys in keys.chunks(MAX_READS) {
            let mut read = cmd(if keys.len() == 1 { "GET" } else { "MGET" });
            read.arg(keys);
            message.add(vec![read]);
        }
        let mut replies = match send(message, connection).await {
            Ok(replies) => replies.into_iter(),
            Err(error) => {
                let receivers = parts.into_iter().map(|(_, reply)| reply).chain(readers);
                // A receiver may be gone.
                receivers.for_each(|reply| _ = reply.send(Err(error.clone())));
                return;
            }
        };
        last_reply.note();
        for (count, reply) in parts {
            let part: Vec<Value> = replies.by_ref().take(count).collect();
            let _ = reply.send(if part.len() == count { Ok(part) } else { Err(error::unexpected()) });
        }
        let mut readers = readers.into_iter();
        for keys in keys.chunks(MAX_READS) {
            for value in values(replies.next(), keys.len()) {
                if let Some(reply) = readers.next() {
                    let _ = reply.send(value.map(|value| vec![value]));
                }
            }
        }
    }
}

/// The values in the reply to a read of `count` keys.
fn values(reply: Option<Value>, count: usize) -> Vec<Result<Value>> {
    match reply {
        Some(value) if count == 1 => vec![Ok(value)],
        Some(Value::Array(values)) if values.len() == count => values.into_iter().map(Ok).collect(),
        Some(error @ Value::ServerError(_)) => vec![Ok(error); count],
        _ => (0..count).map(|_| Err(error::unexpected())).collect(),
    }
}
