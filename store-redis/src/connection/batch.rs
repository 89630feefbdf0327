//! Requests as messages to the driver, and the replies to them.

use cache_core::Result;
use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection, cmd};
use tokio::sync::oneshot;

use super::error;

/// The largest number of commands that are put together in one message, and of keys of one MGET. The
/// driver hands out the replies to a message when it has all of them, so small replies wait for
/// large ones.
const MAX_TOGETHER: usize = 32;

/// What a call asks the server.
pub(super) enum Request {
    /// The string at this key.
    Get(Vec<u8>),
    /// These commands, in this order.
    Commands(Vec<Cmd>),
    /// These commands as a transaction. Boxed, because every call has room for a request several
    /// times.
    Transaction(Box<Pipeline>),
    /// A request for keys that are on their way to this server. The others refuse it.
    Asking(Box<Request>),
}

/// The replies, one per command; for a transaction one.
pub(super) type Replies = Result<Vec<Value>>;

type Sender = oneshot::Sender<Replies>;

/// A request, and where its replies go. The receiver is gone if the call was dropped.
pub(super) struct Queued {
    pub(super) request: Request,
    pub(super) reply: Sender,
}

/// The commands of a request.
struct Commands {
    commands: Vec<Cmd>,
    shape: Shape,
}

/// The meaning of the replies to the commands of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// Each is one.
    Commands,
    /// The last one is that of the transaction.
    Transaction,
    /// Each second one is one.
    Asking,
    /// As for a transaction.
    AskingTransaction,
}

impl Request {
    fn into_commands(self) -> Commands {
        match self {
            Self::Get(key) => Commands { commands: vec![get(key)], shape: Shape::Commands },
            Self::Commands(commands) => Commands { commands, shape: Shape::Commands },
            Self::Transaction(pipeline) => {
                let commands = pipeline.cmd_iter().cloned();
                let commands = [cmd("MULTI")].into_iter().chain(commands).chain([cmd("EXEC")]).collect();
                Commands { commands, shape: Shape::Transaction }
            }
            Self::Asking(request) => asking(request.into_commands()),
        }
    }
}

/// Puts ASKING before each command. The server forgets it after the next command, or after the
/// transaction that follows.
fn asking(Commands { commands, shape }: Commands) -> Commands {
    if shape == Shape::Transaction {
        let commands = [cmd("ASKING")].into_iter().chain(commands).collect();
        return Commands { commands, shape: Shape::AskingTransaction };
    }
    let commands = commands.into_iter().flat_map(|command| [cmd("ASKING"), command]).collect();
    Commands { commands, shape: Shape::Asking }
}

pub(super) fn get(key: Vec<u8>) -> Cmd {
    let mut get = cmd("GET");
    get.arg(key);
    get
}

/// Returns the replies to a request from those to its `count` commands.
fn replies(mut values: Vec<Value>, count: usize, shape: Shape) -> Replies {
    if values.len() != count {
        return Err(error::unexpected());
    }
    match shape {
        Shape::Commands => {}
        Shape::Transaction | Shape::AskingTransaction => {
            // The replies before the last one tell only whether the command is part of it.
            let refused = values.iter().position(|value| matches!(value, Value::ServerError(_)));
            values.swap(0, refused.unwrap_or(count - 1));
            values.truncate(1);
        }
        Shape::Asking => values = values.into_iter().skip(1).step_by(2).collect(),
    }
    Ok(values)
}

/// Sends one request and returns the replies.
pub(super) async fn send_alone(request: Request, connection: MultiplexedConnection) -> Replies {
    let Commands { commands, shape } = request.into_commands();
    let count = commands.len();
    replies(send(commands, connection).await?, count, shape)
}

async fn send(commands: Vec<Cmd>, mut connection: MultiplexedConnection) -> Replies {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command);
    }
    let sent = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await;
    sent.map_err(|error| error::broken(&error))
}

/// Requests that go to the driver as one message.
pub(super) enum Message {
    /// Commands, and for each request how many of them it has, the meaning of their replies, and
    /// where the replies go.
    Commands(Vec<Cmd>, Vec<(usize, Shape, Sender)>),
    /// Single reads: the keys, and where the values go.
    Reads(Vec<Vec<u8>>, Vec<Sender>),
}

/// Puts requests together. Commands keep their order; reads come last. Requests of calls that were
/// dropped are left out.
pub(super) fn messages(requests: impl Iterator<Item = Queued>) -> Vec<Message> {
    let mut messages = Vec::new();
    let (mut commands, mut parts) = (Vec::new(), Vec::new());
    let (mut keys, mut readers) = (Vec::new(), Vec::new());
    for Queued { request, reply } in requests.filter(|queued| !queued.reply.is_closed()) {
        if let Request::Get(key) = request {
            keys.push(key);
            readers.push(reply);
        } else {
            let Commands { commands: mut added, shape } = request.into_commands();
            if commands.len() + added.len() > MAX_TOGETHER && !parts.is_empty() {
                messages.push(Message::Commands(std::mem::take(&mut commands), std::mem::take(&mut parts)));
            }
            parts.push((added.len(), shape, reply));
            commands.append(&mut added);
        }
        if keys.len() == MAX_TOGETHER {
            messages.push(Message::Reads(std::mem::take(&mut keys), std::mem::take(&mut readers)));
        }
    }
    if !parts.is_empty() {
        messages.push(Message::Commands(commands, parts));
    }
    if !keys.is_empty() {
        messages.push(Message::Reads(keys, readers));
    }
    messages
}

impl Message {
    /// Returns the number of its requests.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Commands(_, parts) => parts.len(),
            Self::Reads(keys, _) => keys.len(),
        }
    }

    /// Sends the message, and hands out the replies. Returns `true` if the server has replied.
    pub(super) async fn send(self, connection: MultiplexedConnection) -> bool {
        match self {
            Self::Commands(commands, parts) => send_commands(commands, parts, connection).await,
            Self::Reads(keys, readers) => read(keys, readers, connection).await,
        }
    }
}

async fn send_commands(
    commands: Vec<Cmd>,
    parts: Vec<(usize, Shape, Sender)>,
    connection: MultiplexedConnection,
) -> bool {
    let sent = send(commands, connection).await;
    let is_answered = sent.is_ok();
    let mut values = sent.map(Vec::into_iter);
    for (count, shape, reply) in parts {
        let part = match &mut values {
            Ok(values) => replies(values.by_ref().take(count).collect(), count, shape),
            Err(error) => Err(error.clone()),
        };
        // The receiver may be gone.
        let _ = reply.send(part);
    }
    is_answered
}

async fn read(keys: Vec<Vec<u8>>, readers: Vec<Sender>, connection: MultiplexedConnection) -> bool {
    let count = keys.len();
    let together = if count == 1 { Err(keys) } else { read_together(keys, connection.clone()).await };
    let values = match together {
        Ok(values) => values,
        Err(keys) => send(keys.into_iter().map(get).collect(), connection).await,
    };
    let is_answered = values.is_ok();
    let mut values = values.map(Vec::into_iter);
    for reader in readers {
        let value = match &mut values {
            Ok(values) => values.next().ok_or_else(error::unexpected).map(|value| vec![value]),
            Err(error) => Err(error.clone()),
        };
        let _ = reader.send(value);
    }
    is_answered
}

/// Reads keys by one MGET. Gives back the keys if the server refuses it because of one of them, so
/// that each must be read by itself: the user may not read it, or it is in another slot of a
/// cluster.
async fn read_together(keys: Vec<Vec<u8>>, connection: MultiplexedConnection) -> Result<Replies, Vec<Vec<u8>>> {
    let mut mget = cmd("MGET");
    mget.arg(&keys);
    match send(vec![mget], connection).await.map(|mut replies| replies.pop()) {
        Ok(Some(Value::Array(values))) if values.len() == keys.len() => Ok(Ok(values)),
        Ok(Some(Value::ServerError(error))) if ["NOPERM", "CROSSSLOT"].contains(&error.code()) => Err(keys),
        Ok(Some(error @ Value::ServerError(_))) => Ok(Ok(vec![error; keys.len()])),
        Ok(_) => Ok(Err(error::unexpected())),
        Err(error) => Ok(Err(error)),
    }
}
