//! The server that a connection leads to: its clock, and whether it is still the one that it was.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use cache_core::{Result, SharedClock, backend::ServerClock};
use redis::{Pipeline, RedisError, Value, aio::MultiplexedConnection};

use crate::error;

/// The connection of a link that last completed its handshake, as the server knows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientId {
    /// Client ids are only unique within one run of a server.
    run_id: String,
    id: i64,
}

/// What all links know of the server.
///
/// A server that restarts from its file, or a replica that takes its place, may have again what was deleted or replaced. It
/// has another run id, which every new connection asks for before it carries anything else. From then on records that were
/// written before that moment count for nothing.
pub(crate) struct Server {
    pub(crate) clock: SharedClock,
    /// Whether it is taken to have lost nothing.
    trusted: bool,
    measured: Mutex<Option<ServerClock>>,
    run_id: Mutex<Option<String>>,
    oldest: AtomicU64,
}

impl Server {
    pub(crate) fn new(clock: SharedClock, trusted: bool) -> Self {
        Self { clock, trusted, measured: Mutex::default(), run_id: Mutex::default(), oldest: AtomicU64::new(0) }
    }

    /// The server's clock, as far as it is known.
    pub(crate) fn clock(&self) -> Option<ServerClock> {
        *lock(&self.measured)
    }

    /// Notes what the server's clock is, or that it is unknown.
    pub(crate) fn set_clock(&self, clock: Option<ServerClock>) {
        *lock(&self.measured) = clock;
    }

    /// Records from before this moment count for nothing, in Unix milliseconds by the server's clock.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest.load(Ordering::Acquire)
    }

    /// Learns where a new connection leads to, before it is used: which server that is, and its time. `again` if the link was
    /// connected before; `client` identifies its last working connection, and is replaced when the server has answered
    /// the request to close that one.
    pub(crate) async fn meet(
        &self,
        connection: &mut MultiplexedConnection,
        again: bool,
        client: &Mutex<Option<ClientId>>,
    ) -> Result<()> {
        let mut questions = Pipeline::with_capacity(3);
        questions.cmd("TIME").cmd("INFO").arg("server").cmd("CLIENT").arg("ID");
        let sent = self.clock.now();
        let replies = ask(connection, &questions).await?;
        let received = self.clock.now();
        let [time, info, id] = replies.try_into().map_err(|_| error::unexpected())?;
        let stamp = micros(time)?;
        let run_id = run_id(info);
        self.identify(run_id.clone(), again, stamp / 1000);
        let next = run_id.zip(error::integer(id).ok()).map(|(run_id, id)| ClientId { run_id, id });
        // Commands in flight on the previous connection must not take effect after commands of this one. The previous id is
        // kept until the server has answered: if this connection breaks first, the next one repeats the kill.
        let previous = to_kill(lock(client).as_ref(), next.as_ref());
        if let Some(previous) = previous {
            let mut kill = Pipeline::with_capacity(1);
            kill.cmd("CLIENT").arg("KILL").arg("ID").arg(previous);
            // An error reply is accepted: the connection may be gone, or the user may lack the permission.
            ask(connection, &kill).await?;
        }
        *lock(client) = next;
        self.set_clock(Some(ServerClock { stamp, sent, received }));
        Ok(())
    }

    /// Notes which server it is at this moment of its clock, if it told; if not, it may be another with each connection.
    fn identify(&self, run_id: Option<String>, again: bool, millis: u64) {
        let mut known = lock(&self.run_id);
        let another = match (&*known, &run_id) {
            (Some(known), Some(run_id)) => known != run_id,
            _ => again,
        };
        if another && !self.trusted {
            self.oldest.fetch_max(millis, Ordering::AcqRel);
        }
        if run_id.is_some() {
            *known = run_id;
        }
    }
}

/// The id of the previous connection if it must be closed before `next` is used.
fn to_kill(previous: Option<&ClientId>, next: Option<&ClientId>) -> Option<i64> {
    let (previous, next) = (previous?, next?);
    (previous.run_id == next.run_id && previous.id != next.id).then_some(previous.id)
}

/// The replies to the questions, errors of the server among them.
async fn ask(connection: &mut MultiplexedConnection, questions: &Pipeline) -> Result<Vec<Value>> {
    let replies = connection.send_packed_commands(questions, 0, questions.len()).await;
    replies.map_err(|error: RedisError| error::broken(&error))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What TIME answered, in Unix microseconds.
pub(crate) fn micros(reply: Value) -> Result<u64> {
    let [seconds, micros] = error::array(error::check(reply)?)?.map(|part| {
        let digits = error::bytes(part)?.ok_or_else(error::unexpected)?;
        str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(error::unexpected)
    });
    Ok(seconds?.saturating_mul(1_000_000).saturating_add(micros?))
}

/// The run id in what INFO answered, `None` if that is an error or another text.
fn run_id(reply: Value) -> Option<String> {
    let text = match reply {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    text.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use cache_core::SystemClock;

    use super::*;

    /// What `oldest` is after these connections: (run id, whether the link was connected before).
    fn after(connections: &[(Option<&str>, bool)]) -> u64 {
        let server = Server::new(SystemClock::shared(), false);
        for (at, (run_id, again)) in (1..).zip(connections) {
            server.identify(run_id.map(str::to_owned), *again, at * 10);
        }
        server.oldest()
    }

    #[test]
    fn another_run_id_makes_what_was_written_before_count_for_nothing() {
        let (a, b) = (Some("a"), Some("b"));
        assert_eq!(after(&[(a, false), (a, false), (a, true), (a, true)]), 0, "links and reconnections");
        assert_eq!(after(&[(a, false), (b, true), (b, true)]), 20);
        assert_eq!(after(&[(a, false), (b, false)]), 20, "a link that is new");
        assert_eq!(after(&[(a, false), (b, true), (a, true)]), 30);
    }

    #[test]
    fn without_a_run_id_each_reconnection_counts_as_another_server() {
        let a = Some("a");
        assert_eq!(after(&[(None, false), (None, false)]), 0);
        assert_eq!(after(&[(None, false), (None, true), (None, true)]), 30);
        assert_eq!(after(&[(a, false), (None, true), (a, true)]), 20, "it is told again that nothing has changed");
        assert_eq!(after(&[(None, false), (a, true), (a, true)]), 20);
    }

    #[test]
    fn the_moment_is_never_set_back() {
        let server = Server::new(SystemClock::shared(), false);
        for (run_id, millis) in [("a", 10), ("b", 50), ("c", 20)] {
            server.identify(Some(run_id.to_owned()), true, millis);
        }
        assert_eq!(server.oldest(), 50);
    }

    #[test]
    fn an_id_is_killed_only_on_the_run_that_assigned_it() {
        let client = |run_id: &str, id| ClientId { run_id: run_id.to_owned(), id };
        assert_eq!(to_kill(Some(&client("a", 7)), Some(&client("a", 9))), Some(7));
        assert_eq!(to_kill(Some(&client("a", 7)), Some(&client("b", 9))), None);
        assert_eq!(to_kill(Some(&client("a", 7)), Some(&client("a", 7))), None);
        assert_eq!(to_kill(Some(&client("a", 7)), None), None);
        assert_eq!(to_kill(None, Some(&client("a", 7))), None);
    }

    #[test]
    fn the_run_id_is_found_in_both_protocols() {
        let text = "# Server\r\nredis_version:7.0.15\r\nrun_id:0123abc\r\ntcp_port:6379\r\n";
        assert_eq!(run_id(Value::BulkString(text.into())).as_deref(), Some("0123abc"));
        let verbatim = Value::VerbatimString { format: redis::VerbatimFormat::Text, text: text.to_owned() };
        assert_eq!(run_id(verbatim).as_deref(), Some("0123abc"));
        assert_eq!(run_id(Value::BulkString(b"# Server\r\n".into())), None);
        assert_eq!(run_id(Value::Nil), None);
    }
}
