//! The connections of invalidation streams, apart from those of the store.

use std::sync::Arc;

use cache_core::{Error, ErrorKind, Result};
use redis::{Client, ConnectionAddr, Pipeline, ProtocolVersion, RedisError, Value, aio::MultiplexedConnection, cmd};
use tokio::time::timeout;

use super::{call::Call, error, node::Node, reply::check, server::Identity};

/// Returns a client of the node's server with this version of the protocol.
pub(super) async fn client_of(node: &Node, protocol: ProtocolVersion) -> Result<Client> {
    let client = node.target.source.client().await?;
    let info = client.get_connection_info();
    let settings = info.redis_settings().clone().set_protocol(protocol);
    let client = Client::open(info.clone().set_redis_settings(settings));
    client.map_err(|error| error::invalid("the address", &error))
}

/// Returns the output of `work`, or an error after the timeout of a call.
pub(super) async fn within<T>(node: &Node, work: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = node.timeout();
    timeout(limit, work).await.unwrap_or_else(|_| Err(error::timed_out(limit)))
}

/// Checks that the server, whose replies to `INFO server` and `INFO replication` these are, is the
/// primary that the store writes to.
pub(super) async fn check_primary(node: &Arc<Node>, server: &Value, replication: &Value) -> Result<()> {
    let identity = Identity::parse(server, replication, node.role());
    if identity.is_replica {
        return Err(Error::new(ErrorKind::ReadOnly, "the Redis server has become a replica"));
    }
    // INFO may be denied.
    let Some(run) = &identity.run else { return Ok(()) };
    if node.server().may_be(run) {
        return Ok(());
    }
    // The store may not have noticed yet that its server has gone.
    let _ = Call::new(node).ask(0, cmd("PING")).await;
    if node.server().may_be(run) {
        return Ok(());
    }
    if node.needs_primary() || node.server().is_process(&identity) {
        // Or that another one is the primary now, or that it was a replica meanwhile.
        node.replace_all();
    }
    let message = "the invalidation stream and the store are connected to different Redis servers";
    Err(Error::new(ErrorKind::Unavailable, message))
}

/// Checks that the server at this address still is the one that sentinels name, if there are any. One
/// that is cut off from them goes on as a primary for some time.
///
/// # Errors
///
/// Returns an error if they name another one.
pub(super) async fn check_named(node: &Node, address: &ConnectionAddr) -> Result<()> {
    // Without an answer the stream goes on: the heartbeat still shows a primary.
    let Ok(client) = node.target.source.client().await else { return Ok(()) };
    if client.get_connection_info().addr() == address {
        return Ok(());
    }
    node.replace_all();
    Err(Error::new(ErrorKind::Unavailable, "sentinels name another primary now"))
}

/// Returns the replies. The error reply to a single command is an error; those in a pipeline are
/// returned, because INFO may be denied.
pub(super) async fn ask(session: &mut MultiplexedConnection, commands: &Pipeline) -> Result<Vec<Value>> {
    let replies = session.send_packed_commands(commands, 0, commands.len()).await;
    let replies = replies.map_err(|error: RedisError| error::broken(&error))?;
    if let ([_], true) = (replies.as_slice(), commands.len() == 1) {
        return replies.into_iter().map(check).collect();
    }
    Ok(replies)
}

/// Returns the error of a stream whose connection has ended.
pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection of the invalidation stream was closed")
}
