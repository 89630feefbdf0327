//! TLS to a real Redis.

use std::{path::Path, process::Command};

use cache_core::{ErrorKind, Store as _, Ticket};
use integration_tests::{RedisServer, key, never};
use store_redis::RedisStore;

/// An authority `<name>.crt` of one's own and a certificate for 127.0.0.1 that it signed.
fn certificates(directory: &Path) {
    let script = r"
        set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=another -keyout other.key -out other.crt
        openssl req -newkey rsa:2048 -nodes -subj /CN=redis -keyout redis.key -out redis.csr
        printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > redis.ext
        openssl x509 -req -days 2 -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile redis.ext -out redis.crt
    ";
    let output = Command::new("sh").args(["-c", script]).current_dir(directory).output().expect("a shell");
    assert!(output.status.success(), "this test needs openssl: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn tls_with_a_root_certificate_of_ones_own() {
    let files = tempfile::tempdir().unwrap();
    certificates(files.path());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (cert, tls_key, ca) = (path("redis.crt"), path("redis.key"), path("ca.crt"));
    let _server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &tls_key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let url = format!("rediss://127.0.0.1:{port}/");
    let read = |name: &str| std::fs::read(path(name)).unwrap();

    let store: RedisStore<u64> = RedisStore::builder(&url)
        .namespace("n")
        .deadline(std::time::Duration::from_secs(5))
        .root_certificate(read("ca.crt"))
        .connect()
        .await
        .unwrap();
    let ticket = store.lease(&key(1)).await.unwrap();
    assert!(store.fill(never(&key(1), 1, ticket)).await.unwrap());
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value().unwrap(), 1);
    store.set(never(&key(1), 2, Ticket::unconditional())).await.unwrap();

    // Another authority's word, or that of the public ones, is not enough.
    let builder = || RedisStore::<u64>::builder(&url).namespace("n").deadline(std::time::Duration::from_secs(5));
    let error = builder().root_certificate(read("other.crt")).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let error = builder().connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
    let garbage = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let error = builder().root_certificate(garbage).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let error = RedisStore::<u64>::builder("redis://127.0.0.1/")
        .namespace("n")
        .root_certificate(read("ca.crt"))
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
}
