//! The server that a connection leads to: its clock, and whether it is still the one that it was.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cache_core::{
    Moment, Result, SharedClock,
    backend::{Binding, ServerClock},
};
use redis::{Pipeline, RedisError, Value, aio::MultiplexedConnection};

use crate::error;

/// A connection, as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClientId {
    /// Client ids are only unique within one run of a server.
    run_id: String,
    id: i64,
}

/// The connection of a link that last completed its handshake.
#[derive(Debug, Default)]
pub(crate) struct LastClient {
    /// The generation of the link.
    generation: u64,
    id: Option<ClientId>,
}

impl LastClient {
    /// The connection that one of this generation takes the place of.
    fn before(&self, generation: u64) -> Result<Option<ClientId>> {
        if self.generation > generation { Err(error::superseded()) } else { Ok(self.id.clone()) }
    }

    /// Puts the connection of this generation in the place of `previous`; whether it could: another may have completed its
    /// handshake meanwhile, and must be closed as well if it is of an earlier generation.
    fn succeed(&mut self, generation: u64, previous: Option<&ClientId>, next: Option<&ClientId>) -> bool {
        let expected = self.generation <= generation && self.id.as_ref() == previous;
        if expected {
            *self = Self { generation, id: next.cloned() };
        }
        expected
    }
}

/// Which records count: those of this life of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Validity {
    /// The run of the server that records are bound to; `None` if that is unknown or of no interest, and every run counts.
    epoch: Option<u32>,
    /// Records that were written before this moment of the server's clock do not count, in Unix milliseconds; 0 until another
    /// server was met.
    pub(crate) since: u64,
}

impl Validity {
    /// What a new record is bound to.
    pub(crate) fn binding(self, key: &[u8]) -> Binding<'_> {
        Binding { key, epoch: self.epoch.unwrap_or_default() }
    }

    /// Whether a record counts that is bound to this epoch, and was written at this moment of the server's clock. Records of
    /// the versions without an epoch count until another server is met.
    pub(crate) fn admits(self, epoch: Option<u32>, created: u64) -> bool {
        match epoch {
            Some(epoch) => self.epoch.is_none_or(|run| run == epoch) && created >= self.since,
            None => self.since == 0,
        }
    }
}

/// What all links know of the server.
///
/// A server that restarts from its file, or a replica that takes its place, may have again what was deleted or replaced. It
/// has another run id, which every new connection asks for before it carries anything else, and which every record is bound to.
pub(crate) struct Server {
    pub(crate) clock: SharedClock,
    /// Whether it is taken to have lost nothing.
    trusted: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    run_id: Option<String>,
    validity: Validity,
    /// The last measurement of a server's clock.
    measured: Option<ServerClock>,
    /// Whether the links still lead to the server that was measured.
    current: bool,
}

impl Server {
    pub(crate) fn new(clock: SharedClock, trusted: bool) -> Self {
        Self { clock, trusted, state: Mutex::default() }
    }

    /// Which records count, and the server's clock as far as it is known.
    pub(crate) fn known(&self) -> (Validity, Option<ServerClock>) {
        let state = lock(&self.state);
        (state.validity, state.measured.filter(|_| state.current))
    }

    /// Which records count.
    pub(crate) fn validity(&self) -> Validity {
        lock(&self.state).validity
    }

    /// Notes a measurement of the server's clock.
    pub(crate) fn set_clock(&self, clock: ServerClock) {
        let mut state = lock(&self.state);
        (state.measured, state.current) = (Some(clock), true);
    }

    /// Has the clock measured anew: the next connection may lead to another server.
    pub(crate) fn distrust_clock(&self) {
        lock(&self.state).current = false;
    }

    /// Learns where a new connection leads to, before it is used: which server that is, and its time. `again` if the link was
    /// connected before; `last` is its last working connection, and is replaced when the server has answered the request to
    /// close that one.
    ///
    /// # Errors
    ///
    /// Of kind `Unavailable` also if a later generation of the link has completed its handshake meanwhile.
    pub(crate) async fn meet(
        &self,
        connection: &mut MultiplexedConnection,
        again: bool,
        generation: u64,
        last: &Mutex<LastClient>,
    ) -> Result<()> {
        let mut questions = Pipeline::with_capacity(4);
        questions.cmd("TIME").cmd("INFO").arg("server").cmd("INFO").arg("replication").cmd("CLIENT").arg("ID");
        let sent = self.clock.now();
        let replies = ask(connection, &questions).await?;
        let received = self.clock.now();
        let [time, info, replication, id] = replies.try_into().map_err(|_| error::unexpected())?;
        let stamp = micros(time)?;
        let run_id = field(info, "run_id:");
        // The records on a replica are bound to the run of its primary, which it does not know.
        let replica = field(replication, "role:").is_some_and(|role| role == "slave");
        let epoch = run_id.as_deref().filter(|_| !replica).map(Binding::epoch_of);
        let next = run_id.clone().zip(error::integer(id).ok()).map(|(run_id, id)| ClientId { run_id, id });
        // Commands in flight on the previous connection must not take effect after commands of this one. The previous id is
        // kept until the server has answered: if this connection breaks first, the next one repeats the kill.
        loop {
            let previous = lock(last).before(generation)?;
            if let Some(previous) = to_kill(previous.as_ref(), next.as_ref()) {
                let mut kill = Pipeline::with_capacity(1);
                kill.cmd("CLIENT").arg("KILL").arg("ID").arg(previous);
                // An error reply is accepted: the connection may be gone, or the user may lack the permission.
                ask(connection, &kill).await?;
            }
            if lock(last).succeed(generation, previous.as_ref(), next.as_ref()) {
                break;
            }
        }
        self.identify(run_id, epoch, again, stamp / 1000, received);
        self.set_clock(ServerClock { stamp, sent, received });
        Ok(())
    }

    /// Notes which server it is at this moment of its clock, if it told; if not, it may be another with each connection.
    fn identify(&self, run_id: Option<String>, epoch: Option<u32>, again: bool, millis: u64, now: Moment) {
        let mut state = lock(&self.state);
        let another = match (&state.run_id, &run_id) {
            (Some(known), Some(run_id)) => known != run_id,
            _ => again,
        };
        if !self.trusted {
            state.validity.epoch = epoch;
            if another {
                let previous_clock = state.measured.map_or(0, |clock| clock.latest(now));
                state.validity.since = match epoch {
                    // All records of this run were dated by this server.
                    Some(_) => millis,
                    // Records of the previous server were dated by its clock, which may have been ahead.
                    None => millis.max(previous_clock).max(state.validity.since),
                };
            }
        }
        if run_id.is_some() {
            state.run_id = run_id;
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

/// A field of what INFO answered, `None` if that is an error or another text.
fn field(reply: Value, name: &str) -> Option<String> {
    let text = match reply {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use cache_core::SystemClock;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    /// From which moment on records count after these connections: (run id, whether the link was connected before).
    fn after(connections: &[(Option<&str>, bool)]) -> u64 {
        let server = Server::new(SystemClock::shared(), false);
        for (count, (run_id, again)) in (1..).zip(connections) {
            identify(&server, *run_id, *again, count * 10, at(count));
        }
        server.validity().since
    }

    /// Meets a primary.
    fn identify(server: &Server, run_id: Option<&str>, again: bool, millis: u64, now: Moment) {
        server.identify(run_id.map(str::to_owned), run_id.map(Binding::epoch_of), again, millis, now);
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

    /// What counts after a server whose clock shows 50 s, and 40 s later another whose clock shows `next` seconds.
    fn across_clocks(run_ids: [Option<&str>; 2], next: u64) -> Validity {
        let server = Server::new(SystemClock::shared(), false);
        identify(&server, run_ids[0], false, 50_000, at(0));
        server.set_clock(ServerClock { stamp: 50_000_000, sent: at(0), received: at(1) });
        server.distrust_clock();
        identify(&server, run_ids[1], true, next * 1000, at(40_000));
        server.validity()
    }

    #[test]
    fn a_clock_that_is_behind_admits_nothing_of_the_server_before() {
        let named = across_clocks([Some("a"), Some("b")], 10);
        assert_eq!(named, Validity { epoch: Some(Binding::epoch_of("b")), since: 10_000 });
        assert!(!named.admits(Some(Binding::epoch_of("a")), 90_000), "a record of the other server");
        assert!(!named.admits(None, 90_000), "a record of an older format");
        assert!(named.admits(named.epoch, 10_000) && !named.admits(named.epoch, 9_999));
        // Without a run id the clocks alone tell: the later of the two, one millisecond above the estimate.
        for (next, since) in [(10, 90_001), (90, 90_001), (95, 95_000)] {
            let unnamed = across_clocks([None, None], next);
            assert_eq!(unnamed, Validity { epoch: None, since });
            assert!(!unnamed.admits(Some(0), 90_000));
        }
    }

    #[test]
    fn a_trusted_server_is_one_epoch() {
        let server = Server::new(SystemClock::shared(), true);
        for (run_id, millis) in [(Some("a"), 10), (None, 50), (Some("c"), 20)] {
            identify(&server, run_id, true, millis, at(millis));
            assert_eq!(server.validity(), Validity::default());
        }
        assert!([None, Some(0), Some(1)].into_iter().all(|epoch| server.validity().admits(epoch, 0)));
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
    fn a_handshake_that_was_given_up_takes_nobodys_place() {
        let [first, second, third] = [1, 2, 3].map(|id| Some(ClientId { run_id: "a".to_owned(), id }));
        let mut last = LastClient { generation: 1, id: first.clone() };
        assert_eq!(last.before(2).unwrap(), first);
        // An earlier one ends first: it must be closed, too.
        assert!(last.succeed(1, first.as_ref(), second.as_ref()));
        assert!(!last.succeed(2, first.as_ref(), third.as_ref()));
        assert_eq!(last.before(2).unwrap(), second);
        assert!(last.succeed(2, second.as_ref(), third.as_ref()));
        // And here it ends last.
        assert_eq!(last.before(1).unwrap_err().kind(), cache_core::ErrorKind::Unavailable);
        assert!(!last.succeed(1, third.as_ref(), first.as_ref()));
        assert_eq!(last.before(2).unwrap(), third);
    }

    #[test]
    fn a_field_is_found_in_both_protocols() {
        let text = "# Server\r\nredis_version:7.0.15\r\nrun_id:0123abc\r\ntcp_port:6379\r\n";
        assert_eq!(field(Value::BulkString(text.into()), "run_id:").as_deref(), Some("0123abc"));
        let verbatim = Value::VerbatimString { format: redis::VerbatimFormat::Text, text: text.to_owned() };
        assert_eq!(field(verbatim, "run_id:").as_deref(), Some("0123abc"));
        assert_eq!(field(Value::BulkString(b"# Server\r\n".into()), "run_id:"), None);
        assert_eq!(field(Value::Nil, "run_id:"), None);
    }
}
