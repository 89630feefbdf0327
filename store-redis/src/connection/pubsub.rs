//! The invalidation stream by pub/sub: the stores announce their own writes.
//!
//! The stream has two connections: one that is subscribed, and one that sends the heartbeats. The
//! server delivers the messages to a subscriber in the order of their publication, whatever the
//! channel, so when a heartbeat has come back, all changes from before it have been announced. It
//! carries the number of the last announcement, so one that was lost is noticed.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cache_core::{
    ErrorKind, Invalidation, InvalidationSink, Result,
    backend::{lock, write_id},
};
use futures_util::{
    StreamExt as _,
    future::{Either, select},
};
use redis::{
    Msg, Pipeline, ProtocolVersion,
    aio::{MultiplexedConnection, PubSubSink, PubSubStream},
};
use tokio::{sync::Notify, task::unconstrained, time::sleep};

use super::{
    error,
    node::Node,
    publication::Publication,
    reply::check,
    session::{ask, check_primary, client_of, closed, within},
};
use crate::record::{
    announcement::{Announcement, Numbers},
    scripts,
};

/// The stream of the changes that stores announce.
pub(super) struct PubSub {
    node: Arc<Node>,
    publication: Arc<Publication>,
}

/// The connections of a stream.
struct Session {
    /// Sends the heartbeats.
    sending: MultiplexedConnection,
    /// Keeps the subscriptions.
    _subscribed: PubSubSink,
    messages: PubSubStream,
}

impl PubSub {
    pub(super) fn new(node: Arc<Node>, publication: Arc<Publication>) -> Self {
        Self { node, publication }
    }

    /// Runs the stream until it breaks. Calls `begun` when it has begun.
    pub(super) async fn run(
        &self,
        heartbeat: Duration,
        sink: Arc<dyn InvalidationSink>,
        begun: impl FnOnce(),
    ) -> Result<Infallible> {
        let heartbeats = format!("{}\\heartbeat/{}", self.publication.counter(), write_id::next());
        let Session { mut sending, _subscribed, messages } = within(&self.node, self.connect(&heartbeats)).await?;
        let receiver = Receiver::new(sink, self.publication.channel(), &heartbeats);
        let receiving = pin!(receive(messages, &receiver));
        let beating = pin!(self.keep_beating(&mut sending, &receiver, heartbeat, begun));
        match select(receiving, beating).await {
            Either::Left(((), _)) => Err(closed()),
            Either::Right((ended, _)) => ended,
        }
    }

    /// Connects and subscribes. When this returns, messages are delivered.
    async fn connect(&self, heartbeats: &str) -> Result<Session> {
        // Proxies that lack RESP3 are one reason for this stream.
        let client = client_of(&self.node, ProtocolVersion::RESP2).await?;
        let address = client.get_connection_info().addr();
        let sending = client.get_multiplexed_async_connection_with_config(&self.node.target.config).await;
        let mut sending = sending.map_err(|error| error::connect_failed(&error, address))?;
        let mut load = Pipeline::with_capacity(1);
        load.add_command(scripts::BEAT.load());
        ask(&mut sending, &load).await?;
        let subscribed = client.get_async_pubsub().await;
        let (mut subscribed, messages) = subscribed.map_err(|error| error::connect_failed(&error, address))?.split();
        subscribed.subscribe(&[self.publication.channel(), heartbeats]).await.map_err(|error| error::broken(&error))?;
        Ok(Session { sending, _subscribed: subscribed, messages })
    }

    async fn keep_beating(
        &self,
        sending: &mut MultiplexedConnection,
        receiver: &Receiver<'_>,
        heartbeat: Duration,
        begun: impl FnOnce(),
    ) -> Result<Infallible> {
        let node = &self.node;
        // The number of the first one is the one to count from, and it proves that messages arrive.
        within(node, self.beat(sending, receiver)).await?;
        self.start_publishing(sending).await?;
        receiver.begin();
        begun();
        loop {
            let sent = Instant::now();
            within(node, self.beat(sending, receiver)).await?;
            receiver.sink.apply(Invalidation::Proven(sent));
            sleep(heartbeat.saturating_sub(sent.elapsed())).await;
        }
    }

    /// Lets the store announce its writes.
    async fn start_publishing(&self, sending: &mut MultiplexedConnection) -> Result<()> {
        let node = &self.node;
        if !self.publication.is_on() {
            // Without the permissions for it, the store must not try.
            for reply in within(node, ask(sending, &self.publication.probe())).await? {
                match check(reply) {
                    // The permission is checked first.
                    Err(error) if !matches!(error.kind(), ErrorKind::Full | ErrorKind::ReadOnly) => return Err(error),
                    _ => {}
                }
            }
        }
        self.publication.turn_on(node).await
    }

    /// Sends one heartbeat and waits until it has come back. Checks that the server still is the
    /// primary that the store writes to.
    async fn beat(&self, sending: &mut MultiplexedConnection, receiver: &Receiver<'_>) -> Result<()> {
        let id = write_id::next();
        receiver.expect(id);
        let mut beat = scripts::BEAT.run_on(2);
        beat.arg(self.publication.counter()).arg(receiver.heartbeats).arg(id.to_le_bytes().as_slice());
        // Lua counts exactly up to 2^53.
        beat.arg(write_id::next() >> 12);
        let mut heartbeat = Pipeline::with_capacity(3);
        // In this order: a primary that is demoted after INFO has announced all changes before.
        heartbeat.cmd("INFO").arg("server").cmd("INFO").arg("replication").add_command(beat);
        let [server, replication, beat] =
            ask(sending, &heartbeat).await?.try_into().map_err(|_| error::unexpected())?;
        check(beat)?;
        check_primary(&self.node, &server, &replication).await?;
        receiver.beaten(id).await;
        Ok(())
    }
}

/// Applies the messages until the connection ends.
async fn receive(mut messages: PubSubStream, receiver: &Receiver<'_>) {
    // The driver queues messages without a limit. Applying one costs less than parsing it, so the
    // queue stays short if this task is not made to yield while there are any.
    while let Some(message) = unconstrained(messages.next()).await {
        receiver.receive(&message);
    }
}

/// Applies the messages of one connection.
struct Receiver<'a> {
    sink: Arc<dyn InvalidationSink>,
    channel: &'a str,
    heartbeats: &'a str,
    state: Mutex<State>,
    came_back: Notify,
}

#[derive(Default)]
struct State {
    has_begun: bool,
    numbers: Numbers,
    /// The heartbeat that is under way.
    expected: Option<u64>,
}

impl<'a> Receiver<'a> {
    fn new(sink: Arc<dyn InvalidationSink>, channel: &'a str, heartbeats: &'a str) -> Self {
        Self { sink, channel, heartbeats, state: Mutex::default(), came_back: Notify::new() }
    }

    fn begin(&self) {
        let mut state = lock(&self.state);
        state.has_begun = true;
        self.sink.apply(Invalidation::Begin("pub/sub"));
    }

    /// Notes that this heartbeat is under way.
    fn expect(&self, id: u64) {
        lock(&self.state).expected = Some(id);
    }

    /// Waits until the heartbeat has come back.
    async fn beaten(&self, id: u64) {
        loop {
            let came_back = self.came_back.notified();
            if lock(&self.state).expected != Some(id) {
                return;
            }
            came_back.await;
        }
    }

    fn receive(&self, message: &Msg) {
        let (channel, payload) = (message.get_channel_name(), message.get_payload_bytes());
        let mut state = lock(&self.state);
        match Announcement::parse(payload) {
            Some(Announcement::Key(number, key)) if channel == self.channel => {
                let is_complete = state.numbers.announced(number);
                self.apply(&state, is_complete, Some(Invalidation::Key(key)));
            }
            Some(Announcement::All(number)) if channel == self.channel => {
                let is_complete = state.numbers.announced(number);
                self.apply(&state, is_complete, Some(Invalidation::Everything));
            }
            // Ids cannot be guessed, so nobody else can send it first.
            Some(Announcement::Beat(number, id)) if channel == self.heartbeats && state.expected == Some(id) => {
                state.expected = None;
                let is_complete = state.numbers.repeated(number);
                self.apply(&state, is_complete, None);
                self.came_back.notify_waiters();
            }
            _ => self.apply(&state, true, Some(Invalidation::Unknown)),
        }
    }

    /// Applies a notice, and before it a gap if announcements are missing. Before the begin nothing
    /// is applied, because nothing that was read until then counts.
    fn apply(&self, state: &State, is_complete: bool, notice: Option<Invalidation<'_>>) {
        if !state.has_begun {
            return;
        }
        let gap = (!is_complete).then_some(Invalidation::Gap);
        gap.into_iter().chain(notice).for_each(|notice| self.sink.apply(notice));
    }
}
