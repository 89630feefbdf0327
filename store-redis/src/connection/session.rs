//! The connections of invalidation streams, apart from those of the store.

use cache_core::{Error, ErrorKind, Result};
use redis::{Client, Pipeline, ProtocolVersion, RedisError, Value, aio::MultiplexedConnection, cmd};
use tokio::time::timeout;

use super::{
    Shared,
    call::Call,
    error,
    link::Target,
    reply::{check, info_field},
};

/// Returns a client with the settings of the target and this version of the protocol.
pub(super) fn client_with(target: &Target, protocol: ProtocolVersion) -> Result<Client> {
    let info = target.client.get_connection_info();
    let settings = info.redis_settings().clone().set_protocol(protocol);
    let client = Client::open(info.clone().set_redis_settings(settings));
    client.map_err(|error| error::invalid("the address", &error))
}

/// Returns the output of `work`, or an error after the timeout of a call.
pub(super) async fn within<T>(connection: &Shared, work: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = connection.timeout();
    timeout(limit, work).await.unwrap_or_else(|_| Err(error::timed_out(limit)))
}

/// Checks that the server, whose replies to `INFO server` and `INFO replication` these are, is the
/// primary that the store writes to.
pub(super) async fn check_primary(connection: &Shared, server: Value, replication: Value) -> Result<()> {
    if info_field(replication, "role:").is_some_and(|role| role == "slave") {
        return Err(Error::new(ErrorKind::ReadOnly, "the Redis server has become a replica"));
    }
    // INFO may be denied.
    let Some(run_id) = info_field(server, "run_id:") else { return Ok(()) };
    let is_same = || connection.server().run_id().is_none_or(|known| known == run_id);
    if is_same() {
        return Ok(());
    }
    // The store may not have noticed yet that its server has gone.
    let _ = Call::new(connection).ask(0, cmd("PING")).await;
    if is_same() {
        return Ok(());
    }
    let message = "the invalidation stream and the store are connected to different Redis servers";
    Err(Error::new(ErrorKind::Unavailable, message))
}

/// Returns the replies; an error reply is an error.
pub(super) async fn ask(session: &mut MultiplexedConnection, commands: &Pipeline) -> Result<Vec<Value>> {
    let replies = session.send_packed_commands(commands, 0, commands.len()).await;
    let replies = replies.map_err(|error: RedisError| error::broken(&error))?;
    // INFO may be denied.
    if let ([_], true) = (replies.as_slice(), commands.len() == 1) {
        return replies.into_iter().map(check).collect();
    }
    Ok(replies)
}

/// Returns the error of a stream whose connection has ended.
pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection of the invalidation stream was closed")
}
