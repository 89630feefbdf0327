//! One call: the commands that it sends, under one timeout.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use cache_core::{
    Error, ErrorKind, Key, Moment, Result,
    backend::{ServerClock, ServerTime},
};
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value, cmd};
use tokio::time::Instant;

use super::{
    batch::{Request, get},
    error,
    link::Connected,
    node::Node,
    reply::{check, integer, unix_micros},
    runtime,
    server::{Identity, ServerSnapshot},
};
use crate::record::scripts::Script;

/// A call to one server.
#[derive(Clone)]
pub(crate) struct Call {
    node: Arc<Node>,
    started: Instant,
    /// `true` if the server is asked for keys that are on their way to it.
    is_asking: bool,
    /// The number of replicas that must confirm what is sent by [`send_all`](Self::send_all).
    replicas: usize,
}

/// Connects all links, and reads the server's clock.
pub(crate) async fn connect_all(node: &Arc<Node>) -> Result<()> {
    for link in 0..node.links() {
        Call::new(node).connect(link).await?;
    }
    Ok(())
}

impl Call {
    /// Starts a call. Everything that it sends shares one deadline.
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        Self::since(node, Instant::now())
    }

    /// Returns a call that was started at this time, perhaps to another server.
    pub(crate) fn since(node: &Arc<Node>, started: Instant) -> Self {
        Self { node: Arc::clone(node), started, is_asking: false, replicas: 0 }
    }

    /// Returns the call for keys that are on their way to this server.
    pub(crate) fn asking(self) -> Self {
        Self { is_asking: true, ..self }
    }

    /// Returns the call whose writes fail unless as many replicas have confirmed them as the
    /// connection is set to.
    pub(crate) fn confirmed(self) -> Self {
        let replicas = self.node.replicas();
        Self { replicas, ..self }
    }

    /// Returns `true` if replicas must confirm what this call writes.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.replicas > 0
    }

    /// Returns the link of a key.
    pub(crate) fn link_of(&self, key: &Key) -> usize {
        self.node.link_of(key)
    }

    pub(crate) fn now(&self) -> Moment {
        self.node.clock().now()
    }

    /// Returns the connection of a link and its generation; waits until it is set up.
    async fn connect(&self, link: usize) -> Result<(Arc<Connected>, u64)> {
        if let Some(connected) = self.node.connected(link) {
            return Ok(connected);
        }
        let runtime = runtime::current()?;
        let (connecting, generation) = self.node.connecting(link);
        if connecting.peek().is_none() && runtime::has_ended(&runtime) {
            // A runtime that has ended has no timers.
            return Err(runtime::ended());
        }
        let late = || error::connect_timed_out(self.node.timeout(), self.node.address());
        match self.before_deadline(link, generation, connecting, late).await? {
            Ok(connected) => Ok((connected, generation)),
            Err(error) => {
                self.lost(link, generation);
                Err(error)
            }
        }
    }

    /// Replaces a link that has broken. All calls on it notice that, and it counts as one failure.
    fn lost(&self, link: usize, generation: u64) {
        if self.node.replace(link, generation) {
            self.node.breaker().failed();
        }
    }

    /// Returns the output of the future, or the error that `late` returns if the deadline passes
    /// first. The future is pinned by the caller, because an async function has room for two of each
    /// future that it is given.
    async fn before_deadline<F: Future + Unpin>(
        &self,
        link: usize,
        generation: u64,
        future: F,
        late: impl FnOnce() -> Error,
    ) -> Result<F::Output> {
        let output = tokio::time::timeout_at(self.started + self.node.timeout(), future).await;
        output.map_err(|_| {
            // Waiting takes its time.
            if link != self.node.waiting_link() {
                self.node.breaker().failed();
            }
            self.node.replace_unresponsive(link, generation);
            late()
        })
    }

    /// Sends a request and returns the replies.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if `server` is not the server that the link leads to
    /// now.
    async fn send(&self, link: usize, server: Option<ServerSnapshot>, request: Request) -> Result<Vec<Value>> {
        let (connected, generation) = self.connect(link).await?;
        self.check_server(server)?;
        self.exchange(link, &connected, generation, request).await
    }

    fn check_server(&self, server: Option<ServerSnapshot>) -> Result<()> {
        let has_changed = server.is_some_and(|server| server.validity != self.node.server().validity());
        if has_changed { Err(error::restarted()) } else { Ok(()) }
    }

    /// Sends a request on this connection and returns the replies.
    async fn exchange(
        &self,
        link: usize,
        connected: &Connected,
        generation: u64,
        request: Request,
    ) -> Result<Vec<Value>> {
        let request = if self.is_asking { Request::Asking(Box::new(request)) } else { request };
        let late = || error::timed_out(self.node.timeout());
        let replies = self.before_deadline(link, generation, pin!(connected.queue.ask(request)), late).await?;
        let replies = replies.map_err(|error| {
            self.lost(link, generation);
            if runtime::has_ended(&connected.runtime) { runtime::ended() } else { error }
        })?;
        self.node.breaker().answered();
        if self.node.needs_primary() && replies.iter().any(error::is_read_only) {
            // It was a primary when the link was set up.
            self.node.replace(link, generation);
        }
        Ok(replies)
    }

    /// Sends one command and returns the reply.
    pub(crate) async fn ask(&self, link: usize, command: Cmd) -> Result<Value> {
        self.one(link, Request::Commands(vec![command])).await
    }

    /// Reads the string at a key.
    pub(crate) async fn get(&self, link: usize, key: Vec<u8>) -> Result<Value> {
        // Reads are put together in an MGET, for which a shard must hold all keys in one slot.
        let request = if self.node.is_shard() { Request::Commands(vec![get(key)]) } else { Request::Get(key) };
        self.one(link, request).await
    }

    /// Reads the strings at keys. The replies include error replies.
    pub(crate) async fn get_all(&self, link: usize, keys: &[Vec<u8>]) -> Result<Vec<Value>> {
        if self.node.is_shard() {
            let gets = keys.iter().map(|key| get(key.clone())).collect();
            return self.send(link, None, Request::Commands(gets)).await;
        }
        let mut read = cmd("MGET");
        read.arg(keys);
        match self.ask(link, read).await? {
            Value::Array(replies) if replies.len() == keys.len() => Ok(replies),
            _ => Err(error::unexpected()),
        }
    }

    /// Sends a transaction and returns the reply.
    pub(crate) async fn transact(&self, link: usize, transaction: Pipeline) -> Result<Value> {
        self.one(link, Request::Transaction(Box::new(transaction))).await
    }

    async fn one(&self, link: usize, request: Request) -> Result<Value> {
        self.send(link, None, request).await?.pop().ok_or_else(error::unexpected).and_then(check)
    }

    /// Sends commands, each on its link, and returns the replies in the same order. `server` is the
    /// server that the commands were made for. Commands that run one of `scripts` work even if the
    /// server has not loaded it.
    ///
    /// Each link gets one pipeline, and all are sent concurrently.
    pub(crate) async fn send_all(
        &self,
        scripts: &[&Script],
        server: Option<ServerSnapshot>,
        commands: Vec<(usize, Cmd)>,
    ) -> Vec<Result<Value>> {
        if let [(link, _)] = commands[..] {
            let commands = commands.into_iter().map(|(_, command)| command).collect();
            // Boxed, so that no future of a call is so large that allocators take a lock for it.
            return Box::pin(self.send_on(link, scripts, server, commands)).await;
        }
        let mut replies: Vec<_> = commands.iter().map(|_| Err(error::unexpected())).collect();
        let mut by_link = BTreeMap::<usize, (Vec<usize>, Vec<Cmd>)>::new();
        for (at, (link, command)) in commands.into_iter().enumerate() {
            let (positions, commands) = by_link.entry(link).or_default();
            positions.push(at);
            commands.push(command);
        }
        let groups = by_link.into_iter().map(|(link, (positions, commands))| async move {
            (positions, self.send_on(link, scripts, server, commands).await)
        });
        for (positions, answers) in join_all(groups).await {
            for (at, answer) in positions.into_iter().zip(answers) {
                replies[at] = answer;
            }
        }
        replies
    }

    async fn send_on(
        &self,
        link: usize,
        scripts: &[&Script],
        server: Option<ServerSnapshot>,
        commands: Vec<Cmd>,
    ) -> Vec<Result<Value>> {
        let count = commands.len();
        let (replies, connected) = match self.try_send_on(link, scripts, server, commands).await {
            Ok(sent) => sent,
            Err(error) => return vec![Err(error); count],
        };
        // The replies to loading the scripts come first.
        let loaded = replies.len().saturating_sub(count);
        let mut results: Vec<Result<Value>> = replies.into_iter().skip(loaded).map(check).collect();
        if self.replicas > 0
            && results.iter().any(Result::is_ok)
            && let Err(error) = Box::pin(self.confirm(link, &connected)).await
        {
            // What was refused or redirected keeps its own error.
            results.iter_mut().filter(|result| result.is_ok()).for_each(|result| *result = Err(error.clone()));
        }
        results
    }

    /// Sends commands and returns the replies, before them those to loading the scripts, and the
    /// connection.
    async fn try_send_on(
        &self,
        link: usize,
        scripts: &[&Script],
        server: Option<ServerSnapshot>,
        commands: Vec<Cmd>,
    ) -> Result<(Vec<Value>, Arc<Connected>)> {
        let (connected, generation) = self.connect(link).await?;
        self.check_server(server)?;
        let exchange = async |commands| self.exchange(link, &connected, generation, Request::Commands(commands)).await;
        let load = || scripts.iter().map(|script| script.load());
        let replies = match (scripts, &commands[..]) {
            // A single command loads the scripts only after the server has reported its own missing.
            ([_, ..], [command]) => {
                let command = command.clone();
                let replies = exchange(commands).await?;
                if matches!(replies.first(), Some(Value::ServerError(error)) if error.code() == "NOSCRIPT") {
                    exchange(load().chain([command]).collect()).await?
                } else {
                    replies
                }
            }
            _ => exchange(load().chain(commands).collect()).await?,
        };
        Ok((replies, connected))
    }

    /// Waits until enough replicas have confirmed what was answered on `written`, a connection of
    /// `link`.
    ///
    /// The server runs no other command of a connection that waits, so there is one for waiting alone.
    /// It waits for all that the server had replicated when it ran the PING.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Timeout` if too few have confirmed it before the deadline.
    async fn confirm(&self, link: usize, written: &Connected) -> Result<()> {
        let needed = i64::try_from(self.replicas).unwrap_or(i64::MAX);
        let mut confirmed = 0;
        let late = |confirmed| error::unconfirmed(confirmed, needed);
        // Without the permission for INFO it is not known whether two connections lead to one server.
        let link = if written.run.is_some() { self.node.waiting_link() } else { link };
        loop {
            let remaining = self.node.timeout().saturating_sub(self.started.elapsed());
            if remaining < MIN_WAIT {
                return Err(late(confirmed));
            }
            let waiting = async {
                let (connected, generation) = self.connect(link).await?;
                if connected.run != written.run {
                    return Err(error::restarted());
                }
                let mut wait = cmd("WAIT");
                let millis = u64::try_from(remaining.min(MAX_WAIT).as_millis()).unwrap_or(1);
                wait.arg(self.replicas).arg(millis);
                self.exchange(link, &connected, generation, Request::Commands(vec![cmd("PING"), wait])).await
            };
            confirmed = match waiting.await {
                Ok(mut replies) => replies.pop().ok_or_else(error::unexpected).and_then(integer)?,
                Err(error) if error.kind() == ErrorKind::Timeout => return Err(late(confirmed)),
                Err(error) => return Err(error),
            };
            if confirmed >= needed {
                return Ok(());
            }
        }
    }

    /// Returns a snapshot of the server that this link leads to. Reads the server's clock if the
    /// last reading is not fresh.
    pub(crate) async fn take_snapshot(&self, link: usize) -> Result<ServerSnapshot> {
        loop {
            if let Some(snapshot) = self.fresh_snapshot() {
                return Ok(snapshot);
            }
            // Boxed, because it is needed once a minute and would enlarge the future of every call.
            Box::pin(self.read_clock(link)).await?;
        }
    }

    /// Returns the time of the server that the first link leads to.
    pub(crate) async fn server_time(&self) -> Result<Option<ServerTime>> {
        let server = self.take_snapshot(0).await?;
        let now = self.now();
        let time = |run| ServerTime { run, earliest: server.earliest_micros(now) / 1000, latest: server.latest(now) };
        Ok(server.validity.run().map(time))
    }

    /// Returns a snapshot if the server need not be asked again.
    fn fresh_snapshot(&self) -> Option<ServerSnapshot> {
        let (validity, clock) = self.node.server().view();
        let now = self.now();
        let is_fresh = |clock: &ServerClock| {
            clock.is_fresh(now) && (!self.node.needs_primary() || clock.age(now) < IDENTIFIED_FOR)
        };
        let clock = clock.filter(is_fresh)?;
        Some(ServerSnapshot { validity, clock })
    }

    async fn read_clock(&self, link: usize) -> Result<()> {
        self.connect(link).await?;
        if self.fresh_snapshot().is_some() {
            // A new connection reads the clock as well.
            return Ok(());
        }
        let server = self.node.server();
        let validity = server.validity();
        let sent = self.now();
        let mut questions = vec![cmd("TIME"), cmd("INFO"), cmd("INFO")];
        questions[1].arg("server");
        questions[2].arg("replication");
        let replies = self.send(link, None, Request::Commands(questions)).await?;
        let received = self.now();
        let [time, info, replication] = replies.try_into().map_err(|_| error::unexpected())?;
        let stamp = unix_micros(time)?;
        let identity = Identity::parse(&info, &replication, self.node.role());
        let is_refused = identity.is_replica && self.node.needs_primary();
        if is_refused || identity.run.is_some_and(|run| !server.may_be(&run)) {
            // It was a replica meanwhile, or is one.
            self.node.replace_all();
            return Ok(());
        }
        // A link that was replaced meanwhile may lead to another server.
        if server.validity() == validity {
            server.set_clock(ServerClock::new(stamp, sent, received));
        }
        Ok(())
    }
}

/// How long a server that may fail over is known to be the same: one that was a replica meanwhile may
/// have deleted entries again, and its connections stay open.
const IDENTIFIED_FOR: Duration = Duration::from_secs(1);

/// The longest and the shortest time of one WAIT. Those of all calls follow each other.
const MAX_WAIT: Duration = Duration::from_millis(100);
const MIN_WAIT: Duration = Duration::from_millis(2);
