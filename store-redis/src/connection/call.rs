//! One call: the commands that it sends, under one timeout.

use std::collections::BTreeMap;

use cache_core::{
    Error, Result,
    backend::{ServerClock, ServerTime},
};
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::{
    Shared, error,
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
    async fn connect(&self, link: usize) -> Result<(Connected, u64)> {
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
    /// first.
    async fn before_deadline<F: Future>(
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

    /// Sends the commands in one pipeline and returns the replies.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if `server` is not the server that the link leads to
    /// now.
    async fn send(&self, link: usize, server: Option<ServerSnapshot>, commands: &Pipeline) -> Result<Vec<Value>> {
        let (Connected { mut connection, runtime }, generation) = self.connect(link).await?;
        if server.is_some_and(|server| server.validity != self.connection.server().validity()) {
            return Err(error::restarted());
        }
        // The replies of a transaction before its last one are skipped.
        let (skipped, count) = if commands.is_transaction() { (commands.len() + 1, 1) } else { (0, commands.len()) };
        let replies = connection.send_packed_commands(commands, skipped, count);
        match self.before_deadline(link, generation, replies, || error::timed_out(self.connection.timeout)).await? {
            Ok(replies) => {
                self.connection.note_reply(link);
                Ok(replies)
            }
            Err(error) => {
                self.connection.replace(link, generation);
                Err(if runtime::has_ended(&runtime) { runtime::ended() } else { error::broken(&error) })
            }
        }
    }

    /// Sends one command or transaction and returns the reply.
    pub(crate) async fn ask(&self, link: usize, commands: &Pipeline) -> Result<Value> {
        self.send(link, None, commands).await?.pop().ok_or_else(error::unexpected).and_then(check)
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
        // A batch always loads the scripts first; a single command does so only after the server
        // has reported its script missing.
        let batch = if count > 1 { scripts } else { &[] };
        let mut pipeline = Pipeline::with_capacity(count + batch.len());
        for command in batch.iter().map(|script| script.load()).chain(commands) {
            pipeline.add_command(command);
        }
        let mut result = self.send(link, server, &pipeline).await;
        if let Ok([Value::ServerError(error)]) = result.as_deref()
            && error.code() == "NOSCRIPT"
            && !scripts.is_empty()
        {
            let mut loading = Pipeline::with_capacity(1 + scripts.len());
            for script in scripts {
                loading.add_command(script.load());
            }
            pipeline.cmd_iter().for_each(|command| _ = loading.add_command(command.clone()));
            result = self.send(link, server, &loading).await;
        }
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
            // A new connection reads the clock as well.
            self.connect(link).await?;
            if self.fresh_snapshot().is_none() {
                self.read_clock(link).await?;
            }
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
        let server = self.connection.server();
        let validity = server.validity();
        let mut time = Pipeline::with_capacity(1);
        time.cmd("TIME");
        let sent = self.connection.clock().now();
        let stamp = unix_micros(self.ask(link, &time).await?)?;
        // A link that was replaced meanwhile may lead to another server.
        if server.validity() == validity {
            server.set_clock(ServerClock::new(stamp, sent, self.connection.clock().now()));
        }
        Ok(())
    }
}
