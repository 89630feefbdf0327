//! The handshake of a new connection with the server, before the connection carries a call.

use std::sync::Mutex;

use cache_core::{
    Result,
    backend::{ServerClock, lock},
};
use redis::{Pipeline, RedisError, Value, aio::MultiplexedConnection};

use super::{
    error,
    reply::{integer, unix_micros},
    server::{Identity, Role, Server},
};

/// The `CLIENT ID` of a connection, with the run of the server that assigned it: ids are unique
/// only within one run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClientId {
    run_id: String,
    id: i64,
}

/// The connection of a link that last completed its handshake.
#[derive(Debug, Default)]
pub(super) struct LastClient {
    /// The generation of the link.
    generation: u64,
    id: Option<ClientId>,
}

impl LastClient {
    /// Returns the connection that one of this generation replaces.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if a later generation has completed its handshake.
    fn predecessor_of(&self, generation: u64) -> Result<Option<ClientId>> {
        if self.generation > generation { Err(error::superseded()) } else { Ok(self.id.clone()) }
    }

    /// Replaces `previous` by the connection of this generation. Returns `false` if another connection
    /// has completed its handshake meanwhile. That one must be closed as well if it is of an earlier
    /// generation.
    fn replace(&mut self, generation: u64, previous: Option<&ClientId>, next: Option<&ClientId>) -> bool {
        let is_expected = self.generation <= generation && self.id.as_ref() == previous;
        if is_expected {
            *self = Self { generation, id: next.cloned() };
        }
        is_expected
    }
}

/// A connection of a link that is being set up.
pub(super) struct Handshake<'a> {
    pub(super) server: &'a Server,
    pub(super) role: Role,
    /// The generation of the link.
    pub(super) generation: u64,
    /// `true` if the link was connected before.
    pub(super) reconnected: bool,
    /// The last working connection of the link. It is replaced after the server has answered the
    /// request to close it.
    pub(super) last: &'a Mutex<LastClient>,
}

impl Handshake<'_> {
    /// Asks the server for its identity and its time, before the connection is used for anything
    /// else, and has it close the previous connection of the link. Returns the run of the server.
    ///
    /// # Errors
    ///
    /// Returns the error of the connection, or one of kind `Unavailable` if a later generation of
    /// the link has completed its handshake meanwhile.
    pub(super) async fn run(&self, connection: &mut MultiplexedConnection) -> Result<Option<String>> {
        let mut questions = Pipeline::with_capacity(4);
        questions.cmd("TIME").cmd("INFO").arg("server").cmd("INFO").arg("replication").cmd("CLIENT").arg("ID");
        let sent = self.server.clock.now();
        let replies = ask(connection, &questions).await?;
        let received = self.server.clock.now();
        let [time, info, replication, id] = replies.try_into().map_err(|_| error::unexpected())?;
        let stamp = unix_micros(time)?;
        let identity = Identity::parse(&info, &replication, self.role);
        if identity.is_replica && self.role != Role::Any {
            return Err(error::not_primary());
        }
        let next = identity.process.clone().zip(integer(id).ok()).map(|(run_id, id)| ClientId { run_id, id });
        self.close_predecessor(connection, next.as_ref()).await?;
        let run = identity.run.clone();
        self.server.identify(identity, self.reconnected, stamp / 1000, received);
        self.server.set_clock(ServerClock::new(stamp, sent, received));
        Ok(run)
    }

    /// Has the server close the previous connection, so that its commands in flight do not take
    /// effect after commands of this one. The previous id is kept until the server has answered: if
    /// this connection breaks first, the next one repeats the request.
    async fn close_predecessor(&self, connection: &mut MultiplexedConnection, next: Option<&ClientId>) -> Result<()> {
        loop {
            let previous = lock(self.last).predecessor_of(self.generation)?;
            if let Some(id) = id_to_kill(previous.as_ref(), next) {
                let mut kill = Pipeline::with_capacity(1);
                kill.cmd("CLIENT").arg("KILL").arg("ID").arg(id);
                // An error reply is accepted: the connection may be gone, or the user may lack the
                // permission.
                ask(connection, &kill).await?;
            }
            if lock(self.last).replace(self.generation, previous.as_ref(), next) {
                return Ok(());
            }
        }
    }
}

/// Returns the id of the previous connection if it must be closed before `next` is used.
fn id_to_kill(previous: Option<&ClientId>, next: Option<&ClientId>) -> Option<i64> {
    let (previous, next) = (previous?, next?);
    (previous.run_id == next.run_id && previous.id != next.id).then_some(previous.id)
}

/// Returns the replies, including error replies of the server.
async fn ask(connection: &mut MultiplexedConnection, questions: &Pipeline) -> Result<Vec<Value>> {
    let replies = connection.send_packed_commands(questions, 0, questions.len()).await;
    replies.map_err(|error: RedisError| error::broken(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_killed_only_on_the_run_that_assigned_it() {
        let client = |run_id: &str, id| ClientId { run_id: run_id.to_owned(), id };
        assert_eq!(id_to_kill(Some(&client("a", 7)), Some(&client("a", 9))), Some(7));
        assert_eq!(id_to_kill(Some(&client("a", 7)), Some(&client("b", 9))), None);
        assert_eq!(id_to_kill(Some(&client("a", 7)), Some(&client("a", 7))), None);
        assert_eq!(id_to_kill(Some(&client("a", 7)), None), None);
        assert_eq!(id_to_kill(None, Some(&client("a", 7))), None);
    }

    #[test]
    fn an_abandoned_handshake_replaces_no_later_connection() {
        let [first, second, third] = [1, 2, 3].map(|id| Some(ClientId { run_id: "a".to_owned(), id }));
        let mut last = LastClient { generation: 1, id: first.clone() };
        assert_eq!(last.predecessor_of(2).unwrap(), first);
        // An earlier one ends first: it must be closed, too.
        assert!(last.replace(1, first.as_ref(), second.as_ref()));
        assert!(!last.replace(2, first.as_ref(), third.as_ref()));
        assert_eq!(last.predecessor_of(2).unwrap(), second);
        assert!(last.replace(2, second.as_ref(), third.as_ref()));
        // And here it ends last.
        assert_eq!(last.predecessor_of(1).unwrap_err().kind(), cache_core::ErrorKind::Unavailable);
        assert!(!last.replace(1, third.as_ref(), first.as_ref()));
        assert_eq!(last.predecessor_of(2).unwrap(), third);
    }
}
