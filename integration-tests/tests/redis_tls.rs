//! TLS to a real Redis.

use std::time::Duration;

use cache_core::{Error, ErrorKind, Store as _, Ticket};
use integration_tests::{Certificates, RedisServer, eventually, free_port, key, never, shown};
use store_redis::{
    RedisConnection, RedisConnectionBuilder, RedisStore,
    redis::{Client, ClientTlsConfig, TlsCertificates},
};

/// A server that speaks TLS at another port than its plain one.
struct TlsServer {
    server: RedisServer,
    certificates: Certificates,
    port: u16,
}

impl TlsServer {
    /// One with the certificate of this name, see [`Certificates`].
    async fn start(certificate: &str, clients: &str) -> Self {
        let (certificates, port) = (Certificates::new(), free_port());
        let path = |file: &str| certificates.path(file).to_str().unwrap().to_owned();
        let server = RedisServer::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &path(&format!("{certificate}.crt")),
            "--tls-key-file",
            &path(&format!("{certificate}.key")),
            "--tls-ca-cert-file",
            &path("ca.crt"),
            "--tls-auth-clients",
            clients,
        ])
        .await;
        Self { server, certificates, port }
    }

    fn url(&self) -> String {
        format!("rediss://app:s3cret@127.0.0.1:{}/", self.port)
    }

    /// Why the server cannot be connected to by someone who trusts the authority of this name, or
    /// the public ones.
    async fn refusal(&self, authority: Option<&str>) -> Error {
        let builder = patient(self.url());
        let builder = match authority {
            Some(name) => builder.root_certificate(self.certificates.read(&format!("{name}.crt"))),
            None => builder,
        };
        let error = builder.connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(!shown(&error).contains("s3cret"), "{}", shown(&error));
        error
    }
}

fn patient(url: String) -> RedisConnectionBuilder {
    RedisConnection::builder(url).timeout(Duration::from_secs(5))
}

#[tokio::test]
async fn tls_with_a_root_certificate_of_ones_own() {
    let server = TlsServer::start("server", "no").await;
    let url = format!("rediss://127.0.0.1:{}/", server.port);
    let store: RedisStore<u64> = RedisStore::builder(&url)
        .namespace("n")
        .timeout(Duration::from_secs(5))
        .root_certificate(server.certificates.read("ca.crt"))
        .connect()
        .await
        .unwrap();
    let ticket = store.lease(&key(1)).await.unwrap();
    assert!(store.fill(never(&key(1), 1, ticket)).await.unwrap());
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value().unwrap(), 1);
    store.set(never(&key(1), 2, Ticket::unconditional())).await.unwrap();

    // Another authority's word, or that of the public ones, is not enough.
    for authority in [Some("other"), None] {
        let error = server.refusal(authority).await;
        assert!(error.to_string().contains("signed by no known authority"), "{error}");
        assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
    }
    let garbage = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let error = patient(url).root_certificate(garbage).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let plain = patient("redis://127.0.0.1/".to_owned()).root_certificate(server.certificates.read("ca.crt"));
    let error = plain.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_says_why() {
    for (certificate, authority, why) in [
        ("itself", "itself", "is that of an authority (CA:TRUE)"),
        ("elsewhere", "ca", "is for another host"),
        ("expired", "ca", "has expired"),
    ] {
        let error = TlsServer::start(certificate, "no").await.refusal(Some(authority)).await;
        assert!(error.to_string().contains(why), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_its_clients_is_said() {
    let error = TlsServer::start("server", "yes").await.refusal(Some("ca")).await;
    assert!(error.to_string().contains("tls-auth-clients"), "{error:?}");
}

#[tokio::test]
async fn a_client_lends_its_certificates() {
    let server = TlsServer::start("server", "yes").await;
    let url = format!("rediss://127.0.0.1:{}/", server.port);
    let read = |file: &str| server.certificates.read(file);
    let client = |authority: &str| {
        let client_tls = ClientTlsConfig { client_cert: read("server.crt"), client_key: read("server.key") };
        let root_cert = Some(read(&format!("{authority}.crt")));
        Client::build_with_tls(&*url, TlsCertificates { client_tls: Some(client_tls), root_cert }).unwrap()
    };
    let builder = RedisStore::<u64>::builder(client("ca")).namespace("n").timeout(Duration::from_secs(5));
    let store = builder.clone().connect().await.unwrap();
    store.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value(), Some(1));
    let debug = format!("{builder:?} {store:?}");
    assert!(!debug.contains("PRIVATE KEY") && !debug.contains("certificate"), "{debug}");

    let builder = RedisConnection::builder(client("other")).timeout(Duration::from_secs(5));
    let error = builder.connect().await.unwrap_err();
    assert!(error.to_string().contains("signed by no known authority"), "{error}");
    // The builder's own setting replaces those of the client.
    let builder =
        RedisConnection::builder(client("ca")).timeout(Duration::from_secs(5)).root_certificate(read("ca.crt"));
    let error = builder.connect().await.unwrap_err();
    assert!(error.to_string().contains("`client_tls`"), "{error}");
}

/// Neither side says that it does not understand the other: one waits, the other hangs up.
#[tokio::test]
async fn a_port_with_the_other_protocol_says_which_url_to_try() {
    let server = TlsServer::start("server", "no").await;
    let root = || server.certificates.read("ca.crt");
    let to_plain = format!("rediss://app:s3cret@127.0.0.1:{}/", server.server.port());
    let hasty = RedisConnection::builder(&to_plain).timeout(Duration::from_millis(400)).root_certificate(root());
    let connection = hasty.connect_lazy().unwrap();
    let store = RedisStore::<u64>::builder_on(&connection).namespace("n").build().unwrap();
    let late = store.get(&key(1)).await.unwrap_err();
    // The driver gives up after two seconds, and the next call learns why.
    let gave_up = eventually("the end of the attempt", async || {
        store.get(&key(1)).await.err().filter(|error| error.to_string().contains("in time"))
    })
    .await;
    for error in [late, gave_up] {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert!(
            error.to_string().contains("does not speak TLS at this port, the URL must begin with redis://"),
            "{error}"
        );
        assert!(!shown(&error).contains("s3cret"), "{}", shown(&error));
    }
    for protocol in ["", "?protocol=resp3"] {
        let url = format!("redis://app:s3cret@127.0.0.1:{}/{protocol}", server.port);
        let error = patient(url).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains("speaks TLS at this port, the URL must begin with rediss://"), "{error}");
        assert!(!shown(&error).contains("s3cret"), "{}", shown(&error));
    }
}
