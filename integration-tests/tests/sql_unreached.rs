//! Why a database cannot be connected to, and what of it is shown.

use std::fs;

use cache_core::{Error, ErrorKind, Store as _, Ticket};
use integration_tests::{Certificates, MariaDb, Postgres, SqlKind, SqlPlace, key, never, shown};
use store_sql::SqlStore;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    runtime::Runtime,
};

/// Why there is no connection to this URL.
async fn refusal(url: &str) -> Error {
    let error = SqlStore::<u64>::builder(url).namespace("n").create_table().connect().await.unwrap_err();
    assert!(!shown(&error).contains("hunter2"), "{}", shown(&error));
    error
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_says_why() {
    let certificates = Certificates::new();
    let path = |file: &str| certificates.path(file).to_str().unwrap().to_owned();
    for (certificate, authority, why) in [
        ("itself", "itself", "is that of an authority (CA:TRUE)"),
        ("server", "other", "signed by no known authority"),
        ("elsewhere", "ca", "is for another host"),
        ("expired", "ca", "has expired"),
    ] {
        let cert = format!("--ssl-cert={}", path(&format!("{certificate}.crt")));
        let server = MariaDb::start_with(&[&cert, &format!("--ssl-key={}", path(&format!("{certificate}.key")))]).await;
        let url = |authority: &str| {
            let authority = path(&format!("{authority}.crt"));
            server.url_as("app:hunter2", &format!("cache?ssl-mode=VERIFY_IDENTITY&ssl-ca={authority}"))
        };
        let error = refusal(&url(authority)).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains(why), "{error:?}");
        if certificate == "server" {
            SqlStore::<u64>::builder(url("ca")).namespace("n").create_table().connect().await.unwrap();
            let error = refusal(&url("nowhere")).await;
            assert!(error.to_string().contains("a file that the URL names does not exist"), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_said() {
    let (maria, postgres) = (MariaDb::shared().await, Postgres::shared().await);
    for (url, parameter) in [
        (maria.url_as("app:hunter2", "cache?ssl-mode=REQUIRED"), "ssl-mode"),
        (postgres.url_as("app:hunter2", "postgres?sslmode=verify-full"), "sslmode"),
    ] {
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains("does not speak TLS") && error.to_string().contains(parameter), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("file"), "no folder").unwrap();
    for (file, mode) in
        [("no/cache.db", ""), ("file/cache.db", ""), ("", ""), ("cache.db", "?mode=rw"), ("cache.db", "?mode=ro")]
    {
        let error = refusal(&format!("sqlite://{}{mode}", path(file))).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        let message = error.to_string();
        assert!(message.contains(&path(file)) && message.contains("create the folder"), "{message}");
    }
    fs::create_dir(path("no")).unwrap();
    let url = format!("sqlite://{}", path("no/cache.db"));
    SqlStore::<u64>::builder(url).namespace("n").create_table().connect().await.unwrap();
}

/// Its handle can still be entered then.
#[test]
fn after_the_end_of_its_runtime_a_store_is_closed_until_another_calls() {
    for kind in [SqlKind::MySql, SqlKind::Postgres, SqlKind::Sqlite] {
        let [first, second] = [(); 2].map(|()| Runtime::new().unwrap());
        let place = first.block_on(SqlPlace::of(kind));
        let store: SqlStore<u64> = first.block_on(place.store());
        let idle =
            first.block_on(async { SqlStore::builder(&place.url).table(&place.table).namespace("n").connect_lazy() });
        let idle: SqlStore<u64> = idle.unwrap();
        let ended = first.handle().clone();
        drop(first);
        let key = key(1);
        for _ in 0..3 {
            for store in [&store, &idle] {
                let error = ended.block_on(store.set(never(&key, 1, Ticket::unconditional()))).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Closed, "{kind:?}: {error:?}");
            }
        }
        second.block_on(store.set(never(&key, 2, Ticket::unconditional()))).unwrap();
        assert_eq!(second.block_on(idle.get(&key)).unwrap().unwrap().into_value().unwrap(), 2);
    }
}

/// A peer that begins the handshake of MySQL 8 and asks for the password of
/// `caching_sha2_password`, which MariaDB does not have: the driver gives the error that a MySQL
/// would cause.
async fn mysql_handshake() -> u16 {
    let mut greeting = b"\x0a8.4.0\0\x01\0\0\0saltsalt\0".to_vec();
    greeting.extend(0xf7ff_u16.to_le_bytes());
    greeting.extend(b"\xff\x02\0");
    greeting.extend(0x0008_u16.to_le_bytes());
    greeting.extend(b"\x15\0\0\0\0\0\0\0\0\0\0saltsaltsalt\0caching_sha2_password\0");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut wire, _)) = listener.accept().await {
            // The greeting, the demand for a full exchange, and a public key.
            for (number, packet) in [(0, &greeting[..]), (2, b"\x01\x04"), (4, b"\x01key")] {
                let length = u8::try_from(packet.len()).unwrap();
                let sent = wire.write_all(&[&[length, 0, 0, number], packet].concat()).await;
                let _ = (sent, wire.read(&mut [0; 1024]).await);
            }
        }
    });
    port
}

#[tokio::test]
async fn a_user_of_mysql_who_needs_tls_is_told_so() {
    let port = mysql_handshake().await;
    let error = refusal(&format!("mysql://app:hunter2@127.0.0.1:{port}/cache?ssl-mode=DISABLED")).await;
    assert_eq!(error.kind(), ErrorKind::Backend, "{error:?}");
    assert!(error.to_string().contains("enable the feature `tls` of store-sql"), "{error:?}");
}
