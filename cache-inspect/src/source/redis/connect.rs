//! Connects to Redis.

use std::time::Duration;

use cache_core::backend::Binding;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, Pipeline, aio::MultiplexedConnection,
};

use super::{
    super::Run,
    ask, error,
    reply::{info_field, unexpected},
};
use crate::{
    arguments::Place,
    error::{Error, Result},
};

/// Connects to a URL.
pub(super) async fn connect(url: &str, place: &Place) -> Result<MultiplexedConnection> {
    let client = client(url, place)?;
    let address = client.get_connection_info().addr().clone();
    // The timeouts are those around the futures.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    match tokio::time::timeout(place.timeout, connecting).await {
        Ok(connected) => connected.map_err(|error| error::connecting(&error, &address)),
        Err(_) => Err(error::connecting_timed_out(place.timeout, &address)),
    }
}

fn client(url: &str, place: &Place) -> Result<Client> {
    let info = url.into_connection_info().map_err(|error| error::invalid_url(&error))?;
    if !info.addr().is_supported() {
        return Err(Error::usage(match info.addr() {
            ConnectionAddr::TcpTls { .. } => {
                "rediss:// needs TLS, which this build does not have; install it with the feature `tls`"
            }
            _ => "this platform has no Unix sockets; connect to Redis by its host and port",
        }));
    }
    // The name of the library would be set by CLIENT SETINFO.
    let login = info.redis_settings().clone().set_skip_set_lib_name();
    let info = info.set_redis_settings(login);
    #[cfg(feature = "tls")]
    {
        // With two providers compiled in and none installed, rustls panics.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if let Some(file) = &place.ca_file {
            let unreadable = |cause| Error::usage(format!("{} cannot be read: {cause}", file.display()));
            let root_cert = Some(std::fs::read(file).map_err(unreadable)?);
            let certificates = redis::TlsCertificates { client_tls: None, root_cert };
            return Client::build_with_tls(info, certificates)
                .map_err(|_| Error::usage("--ca-file needs a URL with rediss:// and a file of certificates in PEM"));
        }
    }
    #[cfg(not(feature = "tls"))]
    if place.ca_file.is_some() {
        return Err(Error::usage("--ca-file needs TLS, which this build does not have"));
    }
    Client::open(info).map_err(|error| error::invalid_url(&error))
}

/// Asks for the run of the server.
pub(super) async fn run(connection: &mut MultiplexedConnection, timeout: Duration) -> Result<Run> {
    let mut questions = Pipeline::with_capacity(2);
    questions.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    let replies = ask(connection, &questions, timeout).await?;
    let [server, replication] = replies.try_into().map_err(|_| unexpected())?;
    // A replica does not know the run of its primary, to which its records are bound.
    if info_field(replication, "role:").is_some_and(|role| role == "slave") {
        return Ok(Run::Replica);
    }
    Ok(info_field(server, "run_id:").map_or(Run::Denied, |run| Run::Epoch(Binding::epoch_of(&run))))
}
