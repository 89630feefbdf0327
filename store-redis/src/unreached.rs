//! Why there is no connection, and what to do about it.

use std::time::Duration;

use cache_core::{Error, ErrorKind};
use redis::{ConnectionAddr, RedisError};

use crate::error;

/// An attempt to connect has failed.
pub(crate) fn failed(error: &RedisError, to: &ConnectionAddr) -> Error {
    if error.is_timeout() {
        let message = format!("no connection to Redis came about in time; {}", hint(to));
        Error::with_source(ErrorKind::Timeout, message, error.to_string())
    } else if error.is_connection_dropped() && !error.is_connection_refusal() {
        let message = format!("Redis closed the connection before it answered; {}", hint(to));
        Error::with_source(ErrorKind::Unavailable, message, error.to_string())
    } else {
        error::broken(error)
    }
}

/// The deadline has passed before there was a connection.
pub(crate) fn late(deadline: Duration, to: &ConnectionAddr) -> Error {
    let message = format!("no connection to Redis came about within {deadline:?}; {}", hint(to));
    Error::new(ErrorKind::Timeout, message)
}

/// A server that is spoken to in the wrong protocol closes the connection, or waits for more; it does not say why.
fn hint(to: &ConnectionAddr) -> &'static str {
    match to {
        ConnectionAddr::Tcp(..) => {
            "look at its load and at the network; if it speaks TLS at this port, the URL must begin with rediss://, \
             which takes the feature `tls`"
        }
        ConnectionAddr::TcpTls { .. } => {
            "look at its load and at the network; if it does not speak TLS at this port, the URL must begin with \
             redis://"
        }
        _ => "look at its load",
    }
}

/// What is wrong with the certificate of the server or of the client, from the words of rustls.
pub(crate) fn certificate(cause: &str) -> Option<&'static str> {
    let hints = [
        (
            "CaUsedAsEndEntity",
            "the certificate of Redis is that of an authority (CA:TRUE), as `openssl req -x509` makes them, and no \
             server may use one: issue one with CA:FALSE, signed by that authority, and give the authority's to \
             .root_certificate()",
        ),
        (
            "UnknownIssuer",
            "the certificate of Redis is signed by no authority that is known here: give the authority's certificate \
             to .root_certificate()",
        ),
        ("not valid for name", "the certificate of Redis is for another host: connect to a host that it names"),
        ("certificate expired", "the certificate of Redis has expired: renew it, or set the clock of this machine"),
        (
            "CertificateRequired",
            "Redis asks for a certificate of its clients, which store-redis does not have: set tls-auth-clients to \
             `no` or `optional` there",
        ),
    ];
    hints.into_iter().find_map(|(word, hint)| cause.contains(word).then_some(hint))
}
