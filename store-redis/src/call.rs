//! One call: what it sends, all of it before one deadline.

use std::collections::BTreeMap;

use cache_core::{Error, ErrorKind, Result, backend::ServerClock};
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use crate::{connection::Shared, error, scripts::Script};

pub(crate) struct Call<'a> {
    connection: &'a Shared,
    started: Instant,
}

impl<'a> Call<'a> {
    pub(crate) fn new(connection: &'a Shared) -> Self {
        Self { connection, started: Instant::now() }
    }

    /// The replies to the commands, sent in one go.
    async fn send(&self, link: usize, commands: &Pipeline) -> Result<Vec<Value>> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(ErrorKind::Closed, "store-redis works inside a Tokio runtime only"));
        }
        let (mut manager, generation) = self.connection.manager(link);
        // What a transaction answers before its end is skipped.
        let (skipped, count) = if commands.is_transaction() { (commands.len() + 1, 1) } else { (0, commands.len()) };
        let replies = manager.send_packed_commands(commands, skipped, count);
        match tokio::time::timeout_at(self.started + self.connection.deadline, replies).await {
            Ok(Ok(replies)) => {
                self.connection.answered(link);
                Ok(replies)
            }
            Ok(Err(error)) => {
                self.connection.set_server_clock(None);
                if !error.is_io_error() {
                    self.connection.replace(link, generation);
                }
                Err(error::broken(&error))
            }
            Err(_) => {
                self.connection.silent(link, generation);
                Err(error::late(self.connection.deadline))
            }
        }
    }

    /// The reply to one command or transaction.
    pub(crate) async fn ask(&self, link: usize, commands: &Pipeline) -> Result<Value> {
        self.send(link, commands).await?.pop().ok_or_else(error::unexpected).and_then(error::check)
    }

    /// The replies to commands, each with the link that it goes by, in their order. Those that run `script` work even if the
    /// server has not seen it.
    ///
    /// There is one pipeline per link concerned, and all are sent at once.
    pub(crate) async fn each(&self, script: Option<&Script>, commands: Vec<(usize, Cmd)>) -> Vec<Result<Value>> {
        let mut replies: Vec<_> = commands.iter().map(|_| Err(error::unexpected())).collect();
        let mut by_link = BTreeMap::<usize, (Vec<usize>, Vec<Cmd>)>::new();
        for (at, (link, command)) in commands.into_iter().enumerate() {
            let (places, commands) = by_link.entry(link).or_default();
            places.push(at);
            commands.push(command);
        }
        let groups = by_link
            .into_iter()
            .map(|(link, (places, commands))| async move { (places, self.group(link, script, commands).await) });
        for (places, answers) in join_all(groups).await {
            for (at, answer) in places.into_iter().zip(answers) {
                replies[at] = answer;
            }
        }
        replies
    }

    async fn group(&self, link: usize, script: Option<&Script>, commands: Vec<Cmd>) -> Vec<Result<Value>> {
        let count = commands.len();
        // A batch brings the script along; a single command only once it turns out to be missing.
        let batch = script.filter(|_| count > 1);
        let mut pipeline = Pipeline::with_capacity(count + 1);
        for command in batch.map(Script::load).into_iter().chain(commands) {
            pipeline.add_command(command);
        }
        let mut result = self.send(link, &pipeline).await;
        if let (Some(script), Ok([Value::ServerError(error)])) = (script, result.as_deref())
            && error.code() == "NOSCRIPT"
        {
            let mut loading = Pipeline::with_capacity(2);
            loading.add_command(script.load());
            pipeline.cmd_iter().for_each(|command| _ = loading.add_command(command.clone()));
            result = self.send(link, &loading).await;
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

    /// The server's clock, measured if it is not known or not fresh.
    pub(crate) async fn server_clock(&self, link: usize) -> Result<ServerClock> {
        match self.connection.server_clock() {
            Some(clock) if clock.is_fresh(self.connection.clock.now()) => Ok(clock),
            _ => self.measure(link).await,
        }
    }

    /// Asks the server for its time.
    pub(crate) async fn measure(&self, link: usize) -> Result<ServerClock> {
        let mut time = Pipeline::with_capacity(1);
        time.cmd("TIME");
        // The first answer on a link waits for the connection, which would count as the way of the time.
        if self.connection.server_clock().is_none() {
            let mut ping = Pipeline::with_capacity(1);
            ping.cmd("PING");
            self.ask(link, &ping).await?;
        }
        let sent = self.connection.clock.now();
        let reply = self.ask(link, &time).await?;
        let received = self.connection.clock.now();
        let [seconds, micros] = error::array(reply)?.map(|part| {
            let digits = error::bytes(part)?.ok_or_else(error::unexpected)?;
            str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(error::unexpected)
        });
        let stamp = seconds?.saturating_mul(1_000_000).saturating_add(micros?);
        let clock = ServerClock { stamp, sent, received };
        self.connection.set_server_clock(Some(clock));
        Ok(clock)
    }
}
