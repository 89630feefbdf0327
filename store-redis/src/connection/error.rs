//! Errors of Redis and of the driver as errors of the cache. No message shows a value or a
//! credential.

use std::{error::Error as StdError, fmt, time::Duration};

use cache_core::{Error, ErrorKind};
use redis::{ConnectionAddr, RedisError, ServerError, Value};

use super::{hint, redirection::Redirection};

/// Returns the error for a URL that the driver rejects.
pub(super) fn invalid_url(error: &RedisError) -> Error {
    let message = format!(
        "the Redis URL is invalid: {}. A URL is redis://[user:password@]host[:port][/database], or rediss:// with the \
         feature `tls`; percent-encode special characters in user and password",
        reason(error)
    );
    Error::new(ErrorKind::InvalidInput, message)
}

/// Returns the error for a setting that the driver rejects.
pub(super) fn invalid(what: &str, error: &RedisError) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{what} is invalid: {}", reason(error)))
}

/// Returns the driver's reason, which is a fixed text. The part after it may quote the URL.
fn reason(error: &RedisError) -> String {
    error.to_string().split(" - ").next().unwrap_or_default().to_owned()
}

/// Returns the error for a target that cannot be.
pub(super) fn wrong_target(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Returns the error for an address that the driver was built without support for.
pub(super) fn unsupported(address: &ConnectionAddr) -> Error {
    let message = match address {
        ConnectionAddr::TcpTls { .. } => {
            "the address of Redis needs TLS, which is not compiled in; enable the feature `tls` of store-redis"
        }
        _ => "this platform has no Unix sockets; connect to Redis by its host and port",
    };
    Error::new(ErrorKind::InvalidInput, message)
}

/// Returns the error of a command that got no reply within the timeout.
pub(super) fn timed_out(timeout: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("Redis did not answer within {timeout:?}; check its load and the network, or raise the timeout"),
    )
}

/// Returns the error of a call that got no connection within its timeout.
pub(super) fn connect_timed_out(timeout: Duration, address: &ConnectionAddr) -> Error {
    let message = format!("no connection to Redis within {timeout:?}; {}", hint::for_address(address));
    Error::new(ErrorKind::Timeout, message)
}

/// Returns the error of a failed attempt to connect.
pub(super) fn connect_failed(error: &RedisError, address: &ConnectionAddr) -> Error {
    let error = connection_error(error, address);
    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    Error::with_source(error.kind(), error.to_string(), Unsent(cause))
}

fn connection_error(error: &RedisError, address: &ConnectionAddr) -> Error {
    let hint = hint::for_address(address);
    if error.is_timeout() {
        let message = format!("no connection to Redis in time; {hint}");
        Error::with_source(ErrorKind::Timeout, message, error.to_string())
    } else if error.is_connection_dropped() && !error.is_connection_refusal() {
        let message = format!("Redis closed the connection before it answered; {hint}");
        Error::with_source(ErrorKind::Unavailable, message, error.to_string())
    } else {
        broken(error)
    }
}

/// Returns the error of a call whose connection has ended before the reply came.
pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to Redis was closed before it answered; try again")
}

/// Returns the error of a call during which the link reconnected to another server.
pub(super) fn restarted() -> Error {
    Error::new(ErrorKind::Unavailable, "Redis was restarted or replaced by another server during the call; try again")
}

/// Returns the error of a handshake that a later connection of the same link has overtaken.
pub(super) fn superseded() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the connection to Redis was replaced by a later one before it was set up; try again",
    )
}

/// Returns the error of a connection to a replica, where a primary is needed.
pub(super) fn not_primary() -> Error {
    let message =
        "this Redis server is a replica, but was named as the primary; a failover may be under way, try again";
    Error::with_source(ErrorKind::Unavailable, message, Unsent("role:slave".to_owned()))
}

/// Returns the error of a call to a node that has not answered for some time.
pub(super) fn not_answering(address: &ConnectionAddr, pause: Duration) -> Error {
    let message =
        format!("the node {address} of the Redis cluster does not answer; it is tried again within {pause:?}");
    Error::with_source(ErrorKind::Unavailable, message, Unsent("the last calls have failed".to_owned()))
}

/// The source of the error of a call that has sent nothing: its cause.
#[derive(Debug)]
struct Unsent(String);

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Unsent {}

/// Returns `true` for the error of a call that has sent nothing.
pub(crate) fn is_unsent(error: &Error) -> bool {
    error.source_as::<Unsent>().is_some()
}

/// Returns the error of a write that too few replicas have confirmed.
pub(super) fn unconfirmed(confirmed: i64, needed: i64) -> Error {
    let message = format!(
        "the write was applied, but {confirmed} of {needed} replicas have confirmed it in time, so a failover may \
         undo it; check the replicas, or write again"
    );
    Error::new(ErrorKind::Timeout, message)
}

/// Returns `true` for the reply of a server that is no primary any more.
pub(super) fn is_read_only(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "READONLY")
}

/// Returns the error for a cluster of which no node tells who holds what.
pub(super) fn unreachable_cluster(nodes: usize, source: Option<Error>) -> Error {
    let kind = source.as_ref().map_or(ErrorKind::Unavailable, Error::kind);
    let message = format!(
        "none of {nodes} nodes of the Redis cluster that are known tells which node holds which keys; check their \
         addresses and the network"
    );
    match source {
        Some(source) => Error::with_source(kind, message, source),
        None => Error::new(kind, message),
    }
}

/// Returns the error for a server that was named as a node of a cluster and is none.
pub(super) fn no_cluster() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "this Redis server is no node of a cluster; connect to it by its URL instead of `RedisTarget::cluster`",
    )
}

/// Returns the error for a store on a cluster that is to announce its writes.
pub(crate) fn no_pubsub_in_cluster() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "`Invalidations::PubSub` needs a single server; use `Invalidations::Tracking` on a cluster, or `Off`",
    )
}

/// Returns the error for a namespace that cannot be cleared.
pub(crate) fn moving() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "slots of the Redis cluster are on their way to other nodes, so keys may have been missed; clear again when \
         they have arrived",
    )
}

/// Returns the error for a slot without a node.
pub(crate) fn unowned(slot: u16) -> Error {
    let message = format!(
        "no node of the Redis cluster holds slot {slot}; check `redis-cli --cluster check`, and wait for a failover"
    );
    Error::new(ErrorKind::Unavailable, message)
}

/// Returns the error for a slot whose node was not found until the deadline.
pub(crate) fn not_found_in_time(slot: u16) -> Error {
    let message = format!(
        "the nodes of the Redis cluster do not agree which of them holds slot {slot}; it may be on its way to another \
         node, or a node has an old configuration: check `redis-cli --cluster check`"
    );
    Error::new(ErrorKind::Unavailable, message)
}

/// Returns the error for commands that the server does not let its user run on this namespace.
pub(crate) fn denied(commands: &[&str], namespace: &str) -> Error {
    let commands = commands.join(", ");
    let message = format!(
        "the Redis user may not run {commands} on the keys of `{namespace}:*`; grant the permissions that the README \
         of store-redis lists"
    );
    Error::new(ErrorKind::Denied, message)
}

/// Returns the error for a failure of the connection, not of a single command.
pub(super) fn broken(error: &RedisError) -> Error {
    if let Some((_, error)) = error.clone().into_server_errors().as_deref().and_then(<[_]>::first) {
        return rejected(error);
    }
    let cause = error.to_string();
    if let Some(hint) = hint::for_certificate(&cause) {
        return Error::with_source(ErrorKind::Unavailable, hint, cause);
    }
    let (kind, message) = match error.kind() {
        redis::ErrorKind::AuthenticationFailed => (ErrorKind::Denied, DENIED),
        redis::ErrorKind::Io if error.is_timeout() => (ErrorKind::Timeout, "the connection to Redis timed out"),
        redis::ErrorKind::Io if error.is_connection_refusal() => {
            (ErrorKind::Unavailable, "Redis refused the connection; check that it is running at this address")
        }
        redis::ErrorKind::Io => (ErrorKind::Unavailable, "the connection to Redis failed"),
        // The driver adds the reply to a text of its own.
        redis::ErrorKind::Server(_) if cause.contains("no permissions to run the 'select' command") => {
            let message = "Redis does not let its user select the database; grant `+select`, or use database 0";
            (ErrorKind::Denied, message)
        }
        redis::ErrorKind::Server(_) => (ErrorKind::Unavailable, "Redis refused to set up the connection"),
        redis::ErrorKind::Client => (ErrorKind::Unavailable, "the TLS handshake with Redis failed"),
        redis::ErrorKind::Parse => {
            (ErrorKind::Unavailable, "the reply is cut off or not of the Redis protocol; check the address")
        }
        _ => (ErrorKind::Backend, "the connection to Redis cannot be used"),
    };
    Error::with_source(kind, message, cause)
}

const DENIED: &str = "Redis refused the credentials or the permission; check user, password and ACL";

/// Returns the error for an error reply of the server to a command.
pub(super) fn rejected(error: &ServerError) -> Error {
    let details = error.details().unwrap_or_default();
    // Scripts of older servers and transactions quote the code of the inner error in the text.
    let is = |code: &str| {
        error.code() == code || ["-", "because of: "].iter().any(|before| details.contains(&format!("{before}{code} ")))
    };
    let any = |codes: &[&str]| codes.iter().any(|code| is(code));
    if let Some(redirection) = redirection_in(error.code(), details) {
        return Error::with_source(ErrorKind::Backend, SHARD, redirection);
    }
    let (kind, message) = if any(&["OOM"]) || details.contains("OOM command not allowed") {
        let message = "Redis is out of memory and refused the write; raise maxmemory or set an eviction policy";
        (ErrorKind::Full, message)
    } else if any(&["READONLY"]) {
        (ErrorKind::ReadOnly, "this Redis server is a read-only replica; connect to the primary")
    } else if any(&["MISCONF", "NOREPLICAS"]) {
        (ErrorKind::ReadOnly, "Redis accepts no writes now; check its persistence and its replicas")
    } else if any(&["NOAUTH", "WRONGPASS", "NOPERM"]) {
        (ErrorKind::Denied, DENIED)
    } else if any(&["CLUSTERDOWN"]) {
        (
            ErrorKind::Unavailable,
            "the Redis cluster serves no keys or not these: most of its primaries are not reachable, or no node holds \
             the slot; check `redis-cli --cluster check`, and wait for a failover",
        )
    } else if any(&["LOADING", "BUSY", "MASTERDOWN"]) {
        (
            ErrorKind::Unavailable,
            "Redis is loading its data, running a script or waiting for its primary; try again later",
        )
    } else if any(&["WRONGTYPE"]) {
        (ErrorKind::Codec, "the key holds a Redis list, hash, set or another type that is not a value of this cache")
    } else if any(&["CROSSSLOT"]) {
        (ErrorKind::Backend, SHARD)
    } else if details.contains("max number of clients") {
        (ErrorKind::Unavailable, "Redis accepts no more clients; raise maxclients or share a RedisConnection")
    } else {
        (ErrorKind::Backend, "Redis answered with an error")
    };
    // The reply to an unknown command quotes its arguments, which may be a value.
    let details = details.split(", with args beginning with").next().unwrap_or_default();
    Error::with_source(kind, message, format!("{} {details}", error.code()))
}

const SHARD: &str = "this Redis server is a node of a cluster; connect to the cluster by `RedisTarget::cluster`";

/// Returns the redirection in an error reply. A transaction and a script quote it.
fn redirection_in(code: &str, details: &str) -> Option<Redirection> {
    Redirection::parse(code, details).or_else(|| {
        let quoted = details.split_once("because of: ").map(|(_, quoted)| quoted)?;
        let (code, details) = quoted.split_once(' ').unwrap_or((quoted, ""));
        Redirection::parse(code, details)
    })
}

/// Returns the error for a reply of another shape than the command has.
pub(crate) fn unexpected() -> Error {
    Error::new(
        ErrorKind::Backend,
        "the reply does not fit the command; check that the address is that of a Redis server",
    )
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use redis::Value;

    use super::*;

    fn server_error(line: &str) -> ServerError {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap() {
            Value::ServerError(error) => error,
            value => panic!("{value:?}"),
        }
    }

    #[test]
    fn errors_of_the_server_by_kind() {
        for (line, kind) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Full),
            ("ERR Error running script: @user_script:1: -OOM command not allowed when used memory", ErrorKind::Full),
            ("READONLY You can't write against a read only replica.", ErrorKind::ReadOnly),
            ("MISCONF Redis is configured to save RDB snapshots, but", ErrorKind::ReadOnly),
            ("NOAUTH Authentication required.", ErrorKind::Denied),
            ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind::Denied),
            ("NOPERM this user has no permissions to run the 'get' command", ErrorKind::Denied),
            ("EXECABORT Transaction discarded because of: NOPERM User app has no permissions", ErrorKind::Denied),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable),
            ("ERR max number of clients reached", ErrorKind::Unavailable),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", ErrorKind::Codec),
            ("MOVED 3999 127.0.0.1:6381", ErrorKind::Backend),
            ("ERR something else", ErrorKind::Backend),
        ] {
            assert_eq!(rejected(&server_error(line)).kind(), kind, "{line}");
        }
    }

    #[test]
    fn an_address_without_support_says_what_to_enable() {
        let address = ConnectionAddr::TcpTls { host: "h".into(), port: 1, insecure: false, tls_params: None };
        for (address, remedy) in [(address, "the feature `tls`"), (ConnectionAddr::Unix("s".into()), "host and port")] {
            let error = unsupported(&address);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn an_error_does_not_show_the_arguments_of_a_command() {
        let line = "ERR unknown command 'SET', with args beginning with: 'users:42' 's3cret' ";
        let error = rejected(&server_error(line));
        assert_eq!(error.source().unwrap().to_string(), "ERR unknown command 'SET'");
        assert!(!format!("{error:?}").contains("s3cret"));
    }
}
