//! Errors of Redis and of the driver as messages.

use std::time::Duration;

use redis::{ConnectionAddr, ErrorKind, RedisError};

use crate::error::Error;

/// Returns the error for a URL that the driver rejects.
pub(super) fn invalid_url(error: &RedisError) -> Error {
    // The part after the reason may quote the URL.
    let text = error.to_string();
    let reason = text.split(" - ").next().unwrap_or_default();
    Error::usage(format!(
        "the Redis URL is invalid: {reason}. A URL is redis://[user:password@]host[:port][/database], rediss:// with TLS, \
         or unix:///path?user=…&pass=…; percent-encode special characters"
    ))
}

/// Returns the error of a connection that could not be set up in time.
pub(super) fn connecting_timed_out(timeout: Duration, address: &ConnectionAddr) -> Error {
    Error::failed(format!("no connection to Redis within {timeout:?}; {}", hint(address)))
}

/// Returns the error of a request without a reply.
pub(super) fn timed_out(timeout: Duration) -> Error {
    Error::failed(format!("Redis did not answer within {timeout:?}; check its load, or raise --timeout"))
}

/// Returns the error of a connection that could not be set up.
pub(super) fn connecting(error: &RedisError, address: &ConnectionAddr) -> Error {
    let is_socket = !matches!(address, ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. });
    if error.kind() == ErrorKind::Io && (is_socket || !error.is_connection_refusal()) {
        return Error::failed(format!("the connection to Redis failed: {error}; {}", hint(address)));
    }
    failed(error)
}

/// Returns the advice for a connection that could not be set up.
fn hint(address: &ConnectionAddr) -> &'static str {
    match address {
        ConnectionAddr::Tcp(..) => {
            "check the address and the network; if the server speaks TLS at this port, use rediss://"
        }
        ConnectionAddr::TcpTls { .. } => {
            "check the address, the network and the certificate (--ca-file); if the server does not speak TLS at this \
             port, use redis://"
        }
        _ => "check the path of the socket",
    }
}

/// Returns the error of the connection.
pub(super) fn failed(error: &RedisError) -> Error {
    if let Some((_, error)) = error.clone().into_server_errors().as_deref().and_then(<[_]>::first) {
        return rejected(error.code(), error.details().unwrap_or_default());
    }
    Error::failed(match error.kind() {
        ErrorKind::AuthenticationFailed => DENIED.to_owned(),
        ErrorKind::Io if error.is_connection_refusal() => {
            "Redis refused the connection; check that it is running at this address".to_owned()
        }
        ErrorKind::Server(_) => match error.code() {
            Some(code) => return rejected(code, error.detail().unwrap_or_default()),
            None => "Redis refused to set up the connection".to_owned(),
        },
        ErrorKind::Parse => "the reply is cut off or not of the Redis protocol; check the address".to_owned(),
        _ => format!("the connection to Redis failed: {error}"),
    })
}

const DENIED: &str = "Redis refused the credentials; check user and password";

/// Returns the error for an error reply of the server.
pub(super) fn rejected(code: &str, details: &str) -> Error {
    Error::failed(match code {
        "NOAUTH" | "WRONGPASS" => DENIED.to_owned(),
        "NOPERM" => format!("the Redis user lacks a permission: {details}; the README of cache-inspect lists them"),
        "MOVED" | "ASK" | "CROSSSLOT" => {
            "this Redis server is a cluster node, and cache-inspect reads one server that holds all keys".to_owned()
        }
        "LOADING" => "Redis is loading its data; try again later".to_owned(),
        // The reply to an unknown command quotes its arguments.
        _ => format!(
            "Redis answered with an error: {code} {}",
            details.split(", with args beginning with").next().unwrap_or_default()
        ),
    })
}
