//! Stores with the settings of the application's own redis-rs client.

use cache_core::{ErrorKind, Store as _, Ticket, codec};
use integration_tests::{RedisServer, documented_permissions, key, never, shown};
use store_redis::{
    RedisConnection, RedisStore, RedisTarget,
    redis::{
        Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo, cmd,
    },
};

/// The address of the server with this login.
fn info(server: &RedisServer, login: RedisConnectionInfo) -> ConnectionInfo {
    ("127.0.0.1", server.port()).into_connection_info().unwrap().set_redis_settings(login)
}

/// A user `app` with the documented permissions for a database other than 0.
fn create_user(server: &RedisServer) {
    let mut permissions = documented_permissions(false);
    permissions.push("+select".to_owned());
    let mut user = vec!["ACL", "SETUSER", "app", "on", ">s3cret", "~users:*"];
    user.extend(permissions.iter().map(String::as_str));
    assert_eq!(server.cli(&user), "OK");
}

fn login() -> RedisConnectionInfo {
    RedisConnectionInfo::default().set_db(3).set_username("app").set_password("s3cret")
}

/// Writes and reads a value, and checks that it is in database 3.
async fn check(server: &RedisServer, store: &RedisStore<u64>) {
    let ticket = store.lease(&key(1)).await.unwrap();
    assert!(store.fill(never(&key(1), 1, ticket)).await.unwrap());
    store.set(never(&key(1), 2, ticket)).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().into_value(), Some(2));
    let keyspace = server.cli(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db3:keys=1,") && !keyspace.contains("db0:"), "{keyspace}");
    store.del(&key(1)).await.unwrap();
}

#[tokio::test]
async fn a_client_lends_its_address_its_login_and_its_database() {
    let server = RedisServer::start().await;
    create_user(&server);
    let client = Client::open(info(&server, login())).unwrap();
    let targets: [RedisTarget; 6] = [
        info(&server, login()).into(),
        (&info(&server, login())).into(),
        client.clone().into(),
        (&client).into(),
        server.url_as("app:s3cret", "3").into(),
        (&server.url_as("app:s3cret", "3")).into(),
    ];
    for target in targets {
        let store = RedisStore::builder(target).namespace("users").connect().await.unwrap();
        check(&server, &store).await;
    }
    let connection = RedisConnection::builder(&client).connections(2).connect().await.unwrap();
    check(&server, &RedisStore::builder_on(&connection).namespace("users").build().unwrap()).await;
    // The client is the application's, as before.
    let mut own = client.get_multiplexed_async_connection().await.unwrap();
    assert_eq!(cmd("GET").arg("users:1").query_async::<Option<String>>(&mut own).await.unwrap(), None);
}

#[tokio::test]
async fn a_login_is_not_shown_wherever_it_comes_from() {
    let server = RedisServer::start().await;
    create_user(&server);
    let client = Client::open(info(&server, login())).unwrap();
    let check = |debug: String| {
        assert!(!debug.contains("s3cret") && !debug.contains("app"), "{debug}");
    };
    check(format!("{:?} {:#?}", RedisTarget::from(&client), RedisTarget::from(server.url_as("app:s3cret", ""))));
    let builder = RedisStore::<u64>::builder(&client).namespace("users");
    check(format!("{builder:?} {builder:#?}"));
    let store = builder.connect().await.unwrap();
    check(format!("{store:?} {store:#?}"));
    check(format!("{:?}", RedisConnection::builder(client).connect_lazy().unwrap()));

    for wrong in [login().set_password("wr0ng"), login().set_username("mallory"), login().set_db(1_000_000)] {
        for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
            let target = info(&server, wrong.clone().set_protocol(protocol));
            let error = RedisConnection::builder(target).connect().await.unwrap_err();
            let shown = shown(&error);
            assert!(!["s3cret", "wr0ng", "mallory"].iter().any(|secret| shown.contains(secret)), "{shown}");
            if wrong.db() == 3 {
                assert_eq!(error.kind(), ErrorKind::Denied, "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_user_who_may_not_select_the_database_is_denied() {
    let server = RedisServer::start().await;
    create_user(&server);
    server.cli(&["ACL", "SETUSER", "app", "-select"]);
    for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
        let target = info(&server, login().set_protocol(protocol));
        let error = RedisConnection::builder(target).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        assert!(error.to_string().contains("`+select`"), "{error}");
    }
}

#[tokio::test]
async fn a_client_lends_its_protocol() {
    for (protocol, hellos) in [(ProtocolVersion::RESP2, 0), (ProtocolVersion::RESP3, 1)] {
        let server = RedisServer::start().await;
        let client = Client::open(info(&server, RedisConnectionInfo::default().set_protocol(protocol))).unwrap();
        let store: RedisStore<u64> = RedisStore::builder(&client).namespace("users").connect().await.unwrap();
        store.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap();
        assert_eq!(server.calls(&["hello"]), [hellos], "{protocol:?}");
    }
}

#[tokio::test]
async fn a_client_of_a_unix_socket() {
    let server = RedisServer::start_with(&["--unixsocket", "{dir}/socket"]).await;
    let path = server.directory().join("socket");
    let info = ConnectionAddr::Unix(path.clone()).into_connection_info().unwrap();
    let store: RedisStore<u64> = RedisStore::builder(&info).namespace("users").connect().await.unwrap();
    store.set(never(&key(1), 1, Ticket::unconditional())).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "users:1"]), "1");
    assert!(format!("{store:?}").contains(path.to_str().unwrap()));
    let missing = ConnectionAddr::Unix(server.directory().join("missing")).into_connection_info().unwrap();
    let error = RedisConnection::builder(missing).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

/// However the address is given: a chain guards stores of the same data by one fence.
#[tokio::test]
async fn stores_of_one_address_hold_the_same_data() {
    let server = RedisServer::start().await;
    let domain = async |target: RedisTarget| {
        let builder = RedisStore::<u64>::builder(target).namespace("n").codec(codec::Json).plain();
        builder.connect_lazy().unwrap().profile().domain
    };
    let by_url = domain(server.url().into()).await;
    let by_info = domain(info(&server, RedisConnectionInfo::default()).into()).await;
    let elsewhere = domain(info(&server, RedisConnectionInfo::default().set_db(3)).into()).await;
    assert_eq!(by_info, by_url);
    assert_ne!(elsewhere, by_url);
}
