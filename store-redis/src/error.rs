//! What Redis answers, as values and errors of the cache. Nothing here shows a value or a credential, and no type of the
//! driver leaves the crate.

use std::time::Duration;

use cache_core::{Error, ErrorKind, Result};
use redis::{RedisError, ServerError, Value};

use crate::unreached;

/// A URL or certificate that the driver does not take. Its reasons are fixed texts; what follows them may quote the URL.
pub(crate) fn invalid(what: &str, error: &RedisError) -> Error {
    let reason = error.to_string();
    let reason = reason.split(" - ").next().unwrap_or_default();
    Error::new(
        ErrorKind::InvalidInput,
        format!(
            "{what} cannot be used: {reason}. A URL is redis://[user:password@]host[:port][/database], rediss:// with the \
             feature `tls`; special characters in user and password must be percent-encoded"
        ),
    )
}

/// The deadline passed.
pub(crate) fn late(deadline: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!(
            "Redis did not answer within {deadline:?}; look at its load and at the network, or allow a longer deadline"
        ),
    )
}

/// The link was made anew in the middle of a call, and leads to another server now.
pub(crate) fn restarted() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "Redis was restarted, or another has taken its place, while this was being asked",
    )
}

/// The link was made anew once more while this connection was being set up.
pub(crate) fn superseded() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to Redis took so long that another has taken its place")
}

/// Commands that the server does not let its user run, on this namespace.
pub(crate) fn denied(commands: &[&str], namespace: &str) -> Error {
    let commands = commands.join(", ");
    let message = format!(
        "the Redis user may not run {commands} on the keys of `{namespace}:*`; the README of store-redis lists the permissions"
    );
    Error::new(ErrorKind::Denied, message)
}

/// The error of a write that was refused for want of room, after its older entry was removed or was not.
pub(crate) fn full(error: Error, removed: bool) -> Error {
    let message = if removed {
        "Redis is out of memory and refused the write; the older entry was removed. Raise maxmemory or set an eviction policy"
    } else {
        "Redis is out of memory and refused the write; the older entry could not be removed and may be there still. Raise \
         maxmemory or set an eviction policy"
    };
    Error::with_source(ErrorKind::Full, message, error)
}

/// A failure of the connection, not of one command.
pub(crate) fn broken(error: &RedisError) -> Error {
    if let Some((_, error)) = error.clone().into_server_errors().as_deref().and_then(<[_]>::first) {
        return refused(error);
    }
    let cause = error.to_string();
    if let Some(hint) = unreached::certificate(&cause) {
        return Error::with_source(ErrorKind::Unavailable, hint, cause);
    }
    let (kind, message) = match error.kind() {
        redis::ErrorKind::AuthenticationFailed => (ErrorKind::Denied, DENIED),
        redis::ErrorKind::Io if error.is_timeout() => (ErrorKind::Timeout, "the connection to Redis timed out"),
        redis::ErrorKind::Io if error.is_connection_refusal() => {
            (ErrorKind::Unavailable, "Redis refused the connection; is it running at this address?")
        }
        redis::ErrorKind::Io => (ErrorKind::Unavailable, "the connection to Redis failed"),
        redis::ErrorKind::Server(_) => (ErrorKind::Unavailable, "Redis refused to set up the connection"),
        redis::ErrorKind::Client => (ErrorKind::Unavailable, "no TLS connection to Redis could be agreed on"),
        redis::ErrorKind::Parse => {
            (ErrorKind::Unavailable, "what answered is cut off or does not speak the Redis protocol")
        }
        _ => (ErrorKind::Backend, "the connection to Redis cannot be used"),
    };
    Error::with_source(kind, message, cause)
}

const DENIED: &str = "Redis refused the credentials or the permission; check user, password and ACL";

/// An error that the server answered to a command.
pub(crate) fn refused(error: &ServerError) -> Error {
    let details = error.details().unwrap_or_default();
    // Scripts of older servers and transactions wrap the code of what failed inside into a text.
    let is = |code: &str| {
        error.code() == code || ["-", "because of: "].iter().any(|before| details.contains(&format!("{before}{code} ")))
    };
    let any = |codes: &[&str]| codes.iter().any(|code| is(code));
    let (kind, message) = if any(&["OOM"]) || details.contains("OOM command not allowed") {
        let message = "Redis is out of memory and refused the write; raise maxmemory or set an eviction policy";
        (ErrorKind::Full, message)
    } else if any(&["READONLY"]) {
        (ErrorKind::ReadOnly, "this Redis is a read-only replica; connect to the primary")
    } else if any(&["MISCONF", "NOREPLICAS"]) {
        (ErrorKind::ReadOnly, "Redis takes no writes now; look at its persistence and replicas")
    } else if any(&["NOAUTH", "WRONGPASS", "NOPERM"]) {
        (ErrorKind::Denied, DENIED)
    } else if any(&["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"]) {
        (ErrorKind::Unavailable, "Redis is not ready to answer; it will be when it has loaded, or finished its script")
    } else if any(&["WRONGTYPE"]) {
        (ErrorKind::Codec, "under this key Redis holds a list, hash, set or the like, which is no value of this cache")
    } else if any(&["MOVED", "ASK", "CROSSSLOT"]) {
        (ErrorKind::Backend, "this Redis is a node of a cluster; store-redis needs a server that holds all keys")
    } else if details.contains("max number of clients") {
        (ErrorKind::Unavailable, "Redis has no room for another client; raise maxclients or share a RedisConnection")
    } else {
        (ErrorKind::Backend, "Redis answered with an error")
    };
    // An unknown command is answered with its arguments, which may be a value.
    let details = details.split(", with args beginning with").next().unwrap_or_default();
    Error::with_source(kind, message, format!("{} {details}", error.code()))
}

/// The value, or the error that it is.
pub(crate) fn check(value: Value) -> Result<Value> {
    match value {
        Value::ServerError(error) => Err(refused(&error)),
        value => Ok(value),
    }
}

/// A reply of another shape than the command has.
pub(crate) fn unexpected() -> Error {
    Error::new(ErrorKind::Backend, "Redis answered with a reply that this command does not have; is it a Redis?")
}

/// A reply that is bytes, or nothing.
pub(crate) fn bytes(value: Value) -> Result<Option<Vec<u8>>> {
    match check(value)? {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(unexpected()),
    }
}

/// A reply that is a number.
pub(crate) fn integer(value: Value) -> Result<i64> {
    match check(value)? {
        Value::Int(number) => Ok(number),
        _ => Err(unexpected()),
    }
}

/// A reply that is an array of `N` replies.
pub(crate) fn array<const N: usize>(value: Value) -> Result<[Value; N]> {
    match check(value)? {
        Value::Array(values) => values.try_into().map_err(|_| unexpected()),
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

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
            assert_eq!(refused(&server_error(line)).kind(), kind, "{line}");
        }
    }

    #[test]
    fn an_error_does_not_show_the_arguments_of_a_command() {
        let line = "ERR unknown command 'SET', with args beginning with: 'users:42' 's3cret' ";
        let error = refused(&server_error(line));
        assert_eq!(error.source().unwrap().to_string(), "ERR unknown command 'SET'");
        assert!(!format!("{error:?}").contains("s3cret"));
    }

    #[test]
    fn replies_of_any_other_shape_are_errors() {
        for value in [Value::Okay, Value::Boolean(true), Value::Map(vec![]), Value::Array(vec![Value::Nil])] {
            assert_eq!(bytes(value.clone()).unwrap_err().kind(), ErrorKind::Backend);
            assert_eq!(integer(value.clone()).unwrap_err().kind(), ErrorKind::Backend);
            assert_eq!(array::<2>(value).unwrap_err().kind(), ErrorKind::Backend);
        }
    }
}
