//! One call: what it sends, all of it before one deadline.

use std::collections::BTreeMap;

use cache_core::{Error, Moment, Result, backend::ServerClock};
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use crate::{
    connection::Shared,
    error,
    link::Connected,
    runtime,
    scripts::Script,
    server::{self, Validity},
    unreached,
};

pub(crate) struct Call<'a> {
    connection: &'a Shared,
    started: Instant,
}

/// What is known of the server.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    /// Which records count.
    pub(crate) validity: Validity,
    clock: ServerClock,
}

/// By how many milliseconds a record may be ahead of the latest that it can be on the server: the estimates of two processes
/// drift apart until they are renewed. A record further ahead was written before the server's clock was set back.
pub(crate) const AHEAD_MILLIS: u64 = 1000;

impl Known {
    /// The earliest that it can be on the server, for what is to be written: in Unix *micro*seconds.
    pub(crate) fn earliest_micros(&self, now: Moment) -> u64 {
        // Should the server's clock be set back, what is written now still counts.
        self.clock.earliest_micros(now).max(self.validity.since.saturating_mul(1000))
    }

    /// The latest that it can be on the server, in Unix milliseconds.
    pub(crate) fn latest(&self, now: Moment) -> u64 {
        self.clock.latest(now)
    }
}

impl<'a> Call<'a> {
    pub(crate) fn new(connection: &'a Shared) -> Self {
        Self { connection, started: Instant::now() }
    }

    /// The connection of a link, and which one it is.
    pub(crate) async fn connect(&self, link: usize) -> Result<(Connected, u64)> {
        let runtime = runtime::current()?;
        let (connecting, generation) = self.connection.connecting(link);
        if connecting.peek().is_none() && runtime::has_ended(&runtime) {
            // Its timers panic.
            return Err(runtime::ended());
        }
        let late = || unreached::late(self.connection.deadline, self.connection.address());
        match self.in_time(link, generation, connecting, late).await? {
            Ok(connected) => Ok((connected, generation)),
            Err(error) => {
                self.connection.replace(link, generation);
                Err(error)
            }
        }
    }

    /// What comes of it before the deadline.
    async fn in_time<F: Future>(
        &self,
        link: usize,
        generation: u64,
        future: F,
        late: impl FnOnce() -> Error,
    ) -> Result<F::Output> {
        let output = tokio::time::timeout_at(self.started + self.connection.deadline, future).await;
        output.map_err(|_| {
            self.connection.silent(link, generation);
            late()
        })
    }

    /// The replies to the commands, sent in one go; an error if they were made for another server than the link leads to now.
    async fn send(&self, link: usize, known: Option<Known>, commands: &Pipeline) -> Result<Vec<Value>> {
        let (Connected { mut connection, runtime }, generation) = self.connect(link).await?;
        if known.is_some_and(|known| known.validity != self.connection.server().validity()) {
            return Err(error::restarted());
        }
        // What a transaction answers before its end is skipped.
        let (skipped, count) = if commands.is_transaction() { (commands.len() + 1, 1) } else { (0, commands.len()) };
        let replies = connection.send_packed_commands(commands, skipped, count);
        match self.in_time(link, generation, replies, || error::late(self.connection.deadline)).await? {
            Ok(replies) => {
                self.connection.answered(link);
                Ok(replies)
            }
            Err(error) => {
                self.connection.replace(link, generation);
                Err(if runtime::has_ended(&runtime) { runtime::ended() } else { error::broken(&error) })
            }
        }
    }

    /// The reply to one command or transaction.
    pub(crate) async fn ask(&self, link: usize, commands: &Pipeline) -> Result<Value> {
        self.send(link, None, commands).await?.pop().ok_or_else(error::unexpected).and_then(error::check)
    }

    /// The replies to commands, each with the link that it goes by, in their order. Those that run `script` work even if the
    /// server has not seen it. `known` is what the commands were made for.
    ///
    /// There is one pipeline per link concerned, and all are sent at once.
    pub(crate) async fn each(
        &self,
        script: Option<&Script>,
        known: Option<Known>,
        commands: Vec<(usize, Cmd)>,
    ) -> Vec<Result<Value>> {
        let mut replies: Vec<_> = commands.iter().map(|_| Err(error::unexpected())).collect();
        let mut by_link = BTreeMap::<usize, (Vec<usize>, Vec<Cmd>)>::new();
        for (at, (link, command)) in commands.into_iter().enumerate() {
            let (places, commands) = by_link.entry(link).or_default();
            places.push(at);
            commands.push(command);
        }
        let groups = by_link
            .into_iter()
            .map(|(link, (places, commands))| async move { (places, self.group(link, script, known, commands).await) });
        for (places, answers) in join_all(groups).await {
            for (at, answer) in places.into_iter().zip(answers) {
                replies[at] = answer;
            }
        }
        replies
    }

    async fn group(
        &self,
        link: usize,
        script: Option<&Script>,
        known: Option<Known>,
        commands: Vec<Cmd>,
    ) -> Vec<Result<Value>> {
        let count = commands.len();
        // A batch brings the script along; a single command only once it turns out to be missing.
        let batch = script.filter(|_| count > 1);
        let mut pipeline = Pipeline::with_capacity(count + 1);
        for command in batch.map(Script::load).into_iter().chain(commands) {
            pipeline.add_command(command);
        }
        let mut result = self.send(link, known, &pipeline).await;
        if let (Some(script), Ok([Value::ServerError(error)])) = (script, result.as_deref())
            && error.code() == "NOSCRIPT"
        {
            let mut loading = Pipeline::with_capacity(2);
            loading.add_command(script.load());
            pipeline.cmd_iter().for_each(|command| _ = loading.add_command(command.clone()));
            result = self.send(link, known, &loading).await;
        }
        match result {
            // What the loading answered comes first.
            Ok(replies) => {
                let loaded = replies.len().saturating_sub(count);
                replies.into_iter().skip(loaded).map(error::check).collect()
            }
            Err(error) => vec![Err(error); count],
        }
    }

    /// What is known of the server that this link leads to. It is asked for its time if that is not known or not fresh.
    pub(crate) async fn known(&self, link: usize) -> Result<Known> {
        loop {
            if let Some(known) = self.fresh() {
                return Ok(known);
            }
            // A new connection asks for the time, too.
            self.connect(link).await?;
            if self.fresh().is_none() {
                self.measure(link).await?;
            }
        }
    }

    /// What is known if the clock need not be measured.
    fn fresh(&self) -> Option<Known> {
        let (validity, clock) = self.connection.server().known();
        let clock = clock.filter(|clock| clock.is_fresh(self.connection.clock().now()))?;
        Some(Known { validity, clock })
    }

    async fn measure(&self, link: usize) -> Result<()> {
        let server = self.connection.server();
        let validity = server.validity();
        let mut time = Pipeline::with_capacity(1);
        time.cmd("TIME");
        let sent = self.connection.clock().now();
        let stamp = server::micros(self.ask(link, &time).await?)?;
        // A link that was made anew meanwhile may lead to another server.
        if server.validity() == validity {
            server.set_clock(ServerClock { stamp, sent, received: self.connection.clock().now() });
        }
        Ok(())
    }
}
