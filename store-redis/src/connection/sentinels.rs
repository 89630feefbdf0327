//! Redis Sentinel: which server is the primary now.

use std::{sync::Mutex, time::Duration};

use cache_core::{Error, ErrorKind, Result, backend::lock};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, Pipeline, Value};
use tokio::time::{Instant, timeout};

use super::{
    error,
    login::client_at,
    reply::{check, field},
    survey::survey,
};

/// The sentinels of one primary.
pub(super) struct Sentinels {
    /// The name under which they watch it.
    name: String,
    clients: Vec<Client>,
    /// How to log in to the servers. Its address counts only for whether it speaks TLS.
    login: ConnectionInfo,
    config: AsyncConnectionConfig,
    timeout: Duration,
    /// The last answer, and when it came.
    last: Mutex<Option<(Known, Instant)>>,
}

/// How long an answer is used: many connections are made at once when a server fails.
const ANSWER_LIFE: Duration = Duration::from_millis(100);

/// What a sentinel knows of the primary.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Known {
    /// Rises with each failover.
    epoch: u64,
    host: String,
    port: u16,
}

impl Sentinels {
    pub(super) fn new(
        name: String,
        clients: Vec<Client>,
        login: ConnectionInfo,
        config: AsyncConnectionConfig,
        timeout: Duration,
    ) -> Self {
        Self { name, clients, login, config, timeout, last: Mutex::default() }
    }

    pub(super) fn login(&self) -> &ConnectionInfo {
        &self.login
    }

    /// Returns a client of the primary: of those that the sentinels name, the one of the latest
    /// failover.
    pub(super) async fn primary(&self) -> Result<Client> {
        let last = lock(&self.last).clone().filter(|(_, came)| came.elapsed() < ANSWER_LIFE);
        if let Some((Known { host, port, .. }, _)) = last {
            return client_at(&self.login, &host, port);
        }
        let known = survey(self.clients.iter().map(|sentinel| self.ask(sentinel))).await;
        let known = known.map_err(|error| self.unanswered(error))?.into_iter().max();
        let known = known.ok_or_else(error::unexpected)?;
        *lock(&self.last) = Some((known.clone(), Instant::now()));
        let Known { host, port, .. } = known;
        client_at(&self.login, &host, port)
    }

    async fn ask(&self, sentinel: &Client) -> Result<Known> {
        let asking = async {
            let connected = sentinel.get_multiplexed_async_connection_with_config(&self.config).await;
            let address = sentinel.get_connection_info().addr();
            let mut connection = connected.map_err(|error| error::connect_failed(&error, address))?;
            let mut question = Pipeline::with_capacity(1);
            question.cmd("SENTINEL").arg("MASTER").arg(&self.name);
            let replies = connection.send_packed_commands(&question, 0, 1).await;
            let reply = replies.map_err(|error| error::broken(&error))?.pop().ok_or_else(error::unexpected)?;
            known(&check(reply)?)
        };
        timeout(self.timeout, asking).await.unwrap_or_else(|_| Err(error::timed_out(self.timeout)))
    }

    /// Returns the error if no sentinel has named a server.
    fn unanswered(&self, error: Option<Error>) -> Error {
        let Some(error) = error else { return error::unexpected() };
        let (name, count) = (&self.name, self.clients.len());
        let message = format!(
            "none of {count} sentinels names a primary for `{name}`; check their addresses, their password and this name"
        );
        // The name may become known: a sentinel can be told at any time.
        let kind = if error.kind() == ErrorKind::Backend { ErrorKind::Unavailable } else { error.kind() };
        Error::with_source(kind, message, error)
    }
}

/// Parses the reply to SENTINEL MASTER.
fn known(reply: &Value) -> Result<Known> {
    let number = |name| field(reply, name).and_then(|text| text.parse::<u64>().ok()).ok_or_else(error::unexpected);
    let port = u16::try_from(number("port")?).map_err(|_| error::unexpected())?;
    let host = field(reply, "ip").filter(|host| !host.is_empty()).ok_or_else(error::unexpected)?;
    Ok(Known { epoch: number("config-epoch")?, host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn a_primary_is_parsed_in_both_protocols() {
        let fields = [("name", "cache"), ("ip", "10.0.0.1"), ("port", "6379"), ("config-epoch", "7")];
        let flat = Value::Array(fields.iter().flat_map(|(name, value)| [text(name), text(value)]).collect());
        let map = Value::Map(fields.iter().map(|(name, value)| (text(name), text(value))).collect());
        for reply in [flat, map] {
            assert_eq!(known(&reply).unwrap(), Known { epoch: 7, host: "10.0.0.1".to_owned(), port: 6379 });
        }
        for reply in [Value::Nil, Value::Array(vec![text("ip")]), Value::Map(vec![(text("port"), text("70000"))])] {
            assert_eq!(known(&reply).unwrap_err().kind(), ErrorKind::Backend);
        }
    }

    #[test]
    fn the_latest_failover_counts() {
        let at = |epoch, host: &str| Known { epoch, host: host.to_owned(), port: 1 };
        assert_eq!([at(2, "b"), at(3, "a"), at(1, "c")].into_iter().max(), Some(at(3, "a")));
    }
}
