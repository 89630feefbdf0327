//! Requests as messages to the driver, and the replies to them.

use cache_core::Result;
use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection, cmd};
use tokio::sync::oneshot;

use super::{error, last_reply::LastReply};

/// The largest number of keys of an MGET: the server does nothing else meanwhile.
const MAX_READS: usize = 64;

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
pub(super) type Replies = Result<Vec<Value>>;

/// A request, and where its replies go. The receiver is gone if the call was dropped.
pub(super) struct Queued {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Replies>,
}

/// The key of a single read, and where the value goes.
type Read = (Vec<u8>, oneshot::Sender<Replies>);

/// What is sent to the driver at once.
#[derive(Default)]
pub(super) struct Message {
    pipeline: Pipeline,
    is_transaction: bool,
}

impl Request {
    pub(super) fn into_message(self) -> Message {
        match self {
            Self::Get(key) => Message::of(vec![get(key)]),
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
pub(super) async fn send(
    Message { pipeline, is_transaction }: Message,
    mut connection: MultiplexedConnection,
) -> Replies {
    // The replies of a transaction before its last one are skipped.
    let (skipped, count) = if is_transaction { (pipeline.len() + 1, 1) } else { (0, pipeline.len()) };
    connection.send_packed_commands(&pipeline, skipped, count).await.map_err(|error| error::broken(&error))
}

/// Requests that go out together.
#[derive(Default)]
pub(super) struct Batch {
    message: Message,
    /// For each request how many replies it gets, and where they go.
    parts: Vec<(usize, oneshot::Sender<Replies>)>,
    /// Reads, which follow the other commands.
    reads: Vec<Read>,
}

/// Divides requests into batches. Only a transaction is alone.
pub(super) fn batches(requests: impl Iterator<Item = Queued>) -> Vec<Batch> {
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
    pub(super) async fn send(self, connection: MultiplexedConnection, last_reply: LastReply) {
        let Self { mut message, parts, reads } = self;
        let (keys, readers): (Vec<_>, Vec<_>) = reads.into_iter().unzip();
        for keys in keys.chunks(MAX_READS) {
            let mut read = cmd(if keys.len() == 1 { "GET" } else { "MGET" });
            read.arg(keys);
            message.add(vec![read]);
        }
        let mut replies = match send(message, connection.clone()).await {
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
        let mut reads = keys.into_iter().zip(readers);
        let mut refused = Vec::new();
        while reads.len() > 0 {
            let reads = reads.by_ref().take(MAX_READS).collect();
            refused.extend(answer(reads, replies.next()));
        }
        if !refused.is_empty() {
            read_each(refused, connection).await;
        }
    }
}

/// Reads keys by one command each.
async fn read_each(reads: Vec<Read>, connection: MultiplexedConnection) {
    let (keys, readers): (Vec<_>, Vec<_>) = reads.into_iter().unzip();
    let replies = send(Message::of(keys.into_iter().map(get).collect()), connection).await;
    for (at, reader) in readers.into_iter().enumerate() {
        let value = replies.as_ref().map_err(Clone::clone);
        let value = value.and_then(|values| values.get(at).cloned().ok_or_else(error::unexpected));
        let _ = reader.send(value.map(|value| vec![value]));
    }
}

fn get(key: Vec<u8>) -> Cmd {
    let mut get = cmd("GET");
    get.arg(key);
    get
}

/// Hands out the values in the reply to one read of these keys. Returns the reads if the server has
/// refused it. It may do so because of one of the keys, so each must be asked for alone.
fn answer(reads: Vec<Read>, reply: Option<Value>) -> Vec<Read> {
    let values: Vec<Result<Value>> = match reply {
        Some(value) if reads.len() == 1 => vec![Ok(value)],
        Some(Value::Array(values)) if values.len() == reads.len() => values.into_iter().map(Ok).collect(),
        Some(Value::ServerError(_)) => return reads,
        _ => reads.iter().map(|_| Err(error::unexpected())).collect(),
    };
    for ((_, reply), value) in reads.into_iter().zip(values) {
        let _ = reply.send(value.map(|value| vec![value]));
    }
    Vec::new()
}
