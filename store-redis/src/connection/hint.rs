//! Advice for errors of setting up a connection.

use redis::ConnectionAddr;

/// Returns the advice for a connection that could not be set up. A server that receives the wrong
/// protocol closes the connection or waits for more; it does not report the reason.
pub(super) fn for_address(address: &ConnectionAddr) -> &'static str {
    match address {
        ConnectionAddr::Tcp(..) => {
            "check the server's load and the network; if the server speaks TLS at this port, the URL must begin with \
             rediss://, which needs the feature `tls`"
        }
        ConnectionAddr::TcpTls { .. } => {
            "check the server's load and the network; if the server does not speak TLS at this port, the URL must \
             begin with redis://"
        }
        _ => "check the server's load",
    }
}

/// Returns the defect of the certificate of the server or of the client, and the remedy.
/// `cause` is the message of rustls.
pub(super) fn for_certificate(cause: &str) -> Option<&'static str> {
    let hints = [
        (
            "CaUsedAsEndEntity",
            "the certificate of Redis is that of an authority (CA:TRUE), as `openssl req -x509` creates it, and no \
             server may use one: issue one with CA:FALSE, signed by that authority, and pass the authority's \
             certificate to .root_certificate()",
        ),
        (
            "UnknownIssuer",
            "the certificate of Redis is signed by no known authority: pass the authority's certificate to \
             .root_certificate()",
        ),
        ("not valid for name", "the certificate of Redis is for another host: connect to a host that it names"),
        ("certificate expired", "the certificate of Redis has expired: renew it, or correct the clock of this machine"),
        (
            "CertificateRequired",
            "Redis requires client certificates: pass a redis::Client built with `Client::build_with_tls` and \
             `client_tls` instead of a URL, or set tls-auth-clients to `no` or `optional` on the server",
        ),
    ];
    hints.into_iter().find_map(|(word, hint)| cause.contains(word).then_some(hint))
}
