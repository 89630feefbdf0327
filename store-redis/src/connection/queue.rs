//! The queue of requests to one connection.
//!
//! Requests that are made at about the same time go out together: several commands in one message
//! to the driver, and single reads in one MGET. What a message costs this process and the server is
//! then shared by many calls. Nothing waits for others to come: a request goes out as soon as the
//! tasks that are ready have run.
//!
//! A task of its own sends the messages, so that no call depends on another one being polled. A
//! request whose call was dropped before is not sent. While only a few messages are in flight, calls
//! send theirs themselves, because waking that task would cost more than it saves.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::Poll,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::aio::MultiplexedConnection;
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot},
    task::{AbortHandle, unconstrained, yield_now},
};

use super::{
    batch::{Queued, Replies, Request, messages, send_alone},
    error,
    last_reply::LastReply,
};

/// A handle to the queue of a connection. Dropped, it ends the task of the queue.
pub(super) struct Queue {
    requests: mpsc::UnboundedSender<Queued>,
    connection: MultiplexedConnection,
    load: Arc<Load>,
    task: AbortHandle,
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Otherwise a connection to a server that hangs would never end.
        self.task.abort();
    }
}

/// What is on its way to the server.
struct Load {
    /// The requests in the queue. No other may overtake them: its key may be theirs.
    waiting: AtomicUsize,
    /// Notified when there is room in the queue. It assigns room to nobody, because a call that waits
    /// may never be polled again.
    room: Notify,
    /// The messages that calls have sent themselves, and those of the task.
    in_flight: AtomicUsize,
    /// The messages whose calls have left before the reply, since the last reply.
    abandoned: AtomicUsize,
    last_reply: LastReply,
}

impl Load {
    fn replied(&self) {
        // The server replies in order.
        self.abandoned.store(0, Relaxed);
        self.last_reply.note();
    }
}

/// A message in flight.
struct InFlight<'a> {
    load: &'a Load,
    has_ended: bool,
}

impl<'a> InFlight<'a> {
    fn begin(load: &'a Load) -> Self {
        load.in_flight.fetch_add(1, Relaxed);
        Self { load, has_ended: false }
    }

    fn end(mut self, is_answered: bool) {
        self.has_ended = true;
        if is_answered {
            self.load.replied();
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.load.abandoned.fetch_add(1, Relaxed);
        }
        self.load.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The messages in flight from which on calls use the queue.
const MAX_DIRECT: usize = 4;

/// The requests that may wait in the queue. Further calls wait until there is room.
const MAX_WAITING: usize = 1024;

/// The requests of the queue that are sent before the first of them is answered. The driver has room
/// for that many messages and more, so each is on its way once it was polled.
const MAX_IN_FLIGHT: usize = 512;

impl Queue {
    /// Starts a queue for a connection, on the runtime that the connection needs. It notes the
    /// replies in `last_reply`.
    pub(super) fn start(connection: MultiplexedConnection, runtime: &Handle, last_reply: LastReply) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let load = Arc::new(Load {
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
            in_flight: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            last_reply,
        });
        let task = runtime.spawn(run(receiver, connection.clone(), Arc::clone(&load))).abort_handle();
        Self { requests, connection, load, task }
    }

    /// Returns the replies to a request, including error replies.
    ///
    /// # Errors
    ///
    /// Returns the error of the connection, which is then of no more use.
    pub(super) async fn ask(&self, request: Request) -> Replies {
        let Load { waiting, in_flight, abandoned, .. } = &*self.load;
        if waiting.load(Acquire) == 0 && in_flight.load(Relaxed) + abandoned.load(Relaxed) < MAX_DIRECT {
            let message = InFlight::begin(&self.load);
            // Boxed, because the future of the driver is large, and most calls that are made at once
            // need none.
            let replies = Box::pin(send_alone(request, self.connection.clone())).await;
            message.end(replies.is_ok());
            return replies;
        }
        self.enter().await;
        let (reply, replied) = oneshot::channel();
        // The task ends before this handle only if its runtime does.
        self.requests.send(Queued { request, reply }).map_err(|_| error::closed())?;
        replied.await.unwrap_or_else(|_| Err(error::closed()))
    }

    /// Counts a request that waits from now on, once there is room for it.
    async fn enter(&self) {
        let more = |waiting| (waiting < MAX_WAITING).then_some(waiting + 1);
        while self.load.waiting.fetch_update(AcqRel, Acquire, more).is_err() {
            let mut room = pin!(self.load.room.notified());
            room.as_mut().enable();
            if self.load.waiting.load(Acquire) >= MAX_WAITING {
                room.await;
            }
        }
    }
}

/// Sends the requests.
async fn run(mut requests: mpsc::UnboundedReceiver<Queued>, connection: MultiplexedConnection, load: Arc<Load>) {
    let mut sent = FuturesUnordered::new();
    let (mut unanswered, mut queued) = (0, Vec::new());
    loop {
        let next = poll_fn(|context| {
            while let Poll::Ready(Some(answered)) = sent.poll_next_unpin(context) {
                unanswered -= answered;
            }
            if unanswered >= MAX_IN_FLIGHT {
                return Poll::Pending;
            }
            requests.poll_recv_many(context, &mut queued, MAX_IN_FLIGHT - unanswered)
        });
        if next.await == 0 {
            return;
        }
        if !sent.is_empty() || queued.len() > 1 {
            // The tasks that are ready may have requests as well.
            yield_now().await;
            while unanswered + queued.len() < MAX_IN_FLIGHT
                && let Ok(request) = requests.try_recv()
            {
                queued.push(request);
            }
        }
        let taken = queued.len();
        for message in messages(queued.drain(..)) {
            let (connection, load, count) = (connection.clone(), Arc::clone(&load), message.len());
            let mut sending = Box::pin(async move {
                let in_flight = InFlight::begin(&load);
                in_flight.end(message.send(connection).await);
                count
            });
            // The first poll hands it over to the driver, so messages keep their order.
            let first = unconstrained(poll_fn(|context| Poll::Ready(sending.as_mut().poll(context))));
            if first.await.is_pending() {
                unanswered += count;
                sent.push(sending);
            }
        }
        load.waiting.fetch_sub(taken, Release);
        load.room.notify_waiters();
    }
}
