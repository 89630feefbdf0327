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

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::aio::MultiplexedConnection;
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
};

use super::{
    batch::{Queued, Replies, Request, batches, send},
    error,
    last_reply::LastReply,
};

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
