//! Logs in at servers that others have named.

use cache_core::Result;
use redis::{Client, ConnectionAddr, ConnectionInfo};

use super::error;

/// Returns a client with these settings for another host and port.
pub(super) fn client_at(settings: &ConnectionInfo, host: &str, port: u16) -> Result<Client> {
    let address = match settings.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    Client::open(settings.clone().set_addr(address)).map_err(|error| error::invalid("the address", &error))
}
