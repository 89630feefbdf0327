//! One call: the commands that it sends, under one timeout.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use cache_core::{
    Error, Result,
    backend::{ServerClock, ServerTime},
};
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value, cmd};
use tokio::time::Instant;

use super::{
    Shared,
    batch::Request,
    error,
    link::Connected,
    reply::{check, unix_micros},
    runtime,
    server::ServerSnapshot,
};
use crate::record::scripts::Script;

pub(crate) struct Call<'a> {
    connection: &'a Shared,
    started: Instant,
}

/// Connects all links, and reads the server's clock.
pub(crate) async fn connect_all(connection: &Shared) -> Result<()> {
    for link in 0..connection.links() {
        Call::new(connection).connect(link).await?;
    }
    Ok(())
}

impl<'a> Call<'a> {
    /// Starts a call. Everything that it sends shares one deadline.
    pub(crate) fn new(connection: &'a Shared) -> Self {
        Self { connection, started: Instant::now() }
    }

    /// Returns the connection of a link and its generation; waits until it is set up.
    async fn connect(&self, link: usize) -> Result<(Arc<Connected>, u64)> {
        if let Some(connected) = self.connection.connected(link) {
            return Ok(connected);
        }
        let runtime = runtime::current()?;
        let (connecting, generation) = self.connection.connecting(link);
        if connecting.peek().is_none() && runtime::has_ended(&runtime) {
            // A runtime that has ended has no timers.
            return Err(runtime::ended());
        }
        let late = || error::connect_timed_out(self.connection.timeout, self.connection.address());
        match self.before_deadline(link, generation, connecting, late).await? {
            Ok(connected) => Ok((connected, generation)),
            Err(error) => {
                self.connection.replace(link, generation);
                Err(error)
            }
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
        let output = tokio::time::timeout_at(self.started + self.connection.timeout, future).await;
        output.map_err(|_| {
            self.connection.replace_unresponsive(link, generation);
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
        if server.is_some_and(|server| server.validity != self.connection.server().validity()) {
            return Err(error::restarted());
        }
        let late = || error::timed_out(self.connection.timeout);
        let replies = self.before_deadline(link, generation, pin!(connected.queue.ask(request)), late).await?;
        replies.map_err(|error| {
            self.connection.replace(link, generation);
            if runtime::has_ended(&connected.runtime) { runtime::ended() } else { error }
        })
    }

    /// Sends one command and returns the reply.
    pub(crate) async fn ask(&self, link: usize, command: Cmd) -> Result<Value> {
        self.one(link, Request::Commands(vec![command])).await
    }

    /// Reads the string at a key.
    pub(crate) async fn get(&self, link: usize, key: Vec<u8>) -> Result<Value> {
        self.one(link, Request::Get(key)).await
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
        let load = || scripts.iter().map(|script| script.load());
        let result = match (scripts, &commands[..]) {
            // A single command loads the scripts only after the server has reported its own missing.
            ([_, ..], [command]) => {
                let command = command.clone();
                let result = self.send(link, server, Request::Commands(commands)).await;
                if matches!(result.as_deref(), Ok([Value::ServerError(error)]) if error.code() == "NOSCRIPT") {
                    self.send(link, server, Request::Commands(load().chain([command]).collect())).await
                } else {
                    result
                }
            }
            _ => self.send(link, server, Request::Commands(load().chain(commands).collect())).await,
        };
        match result {
            // The replies to loading the scripts come first.
            Ok(replies) => {
                let loaded = replies.len().saturating_sub(count);
                replies.into_iter().skip(loaded).map(check).collect()
            }
            Err(error) => vec![Err(error); count],
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
        let now = self.connection.clock().now();
        let time = |run| ServerTime { run, earliest: server.earliest_micros(now) / 1000, latest: server.latest(now) };
        Ok(server.validity.run().map(time))
    }

    /// Returns a snapshot if the clock need not be read again.
    fn fresh_snapshot(&self) -> Option<ServerSnapshot> {
        let (validity, clock) = self.connection.server().view();
        let clock = clock.filter(|clock| clock.is_fresh(self.connection.clock().now()))?;
        Some(ServerSnapshot { validity, clock })
    }

    async fn read_clock(&self, link: usize) -> Result<()> {
        self.connect(link).await?;
        if self.fresh_snapshot().is_some() {
            // A new connection reads the clock as well.
            return Ok(());
        }
        let server = self.connection.server();
        let validity = server.validity();
        let sent = self.connection.clock().now();
        let stamp = unix_micros(self.ask(link, cmd("TIME")).await?)?;
        // A link that was replaced meanwhile may lead to another server.
        if server.validity() == validity {
            server.set_clock(ServerClock::new(stamp, sent, self.connection.clock().now()));
        }
        Ok(())
    }
}
