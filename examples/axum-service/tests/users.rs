//! One instance: requests, settings, and the end.

mod support;

use std::io;

use integration_tests::{Postgres, RedisServer, eventually, free_port};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::support::{Instance, profile, sqlite, user};

/// Creates, reads, replaces and deletes a user.
async fn users_are_kept(instance: &Instance) {
    let missing = json!({ "title": "Not Found", "status": 404, "detail": "there is no user 7" });
    assert_eq!(instance.get(7).await, (404, missing.clone()));
    // The cache has that there is no such user; the PUT deletes that.
    assert_eq!(instance.send("PUT", "/users/7", Some(profile("Ada"))).await, (201, user(7, "Ada")));
    assert_eq!(instance.get(7).await, (200, user(7, "Ada")));
    assert_eq!(instance.send("PUT", "/users/7", Some(profile("Bo"))).await, (200, user(7, "Bo")));
    assert_eq!(instance.get(7).await, (200, user(7, "Bo")));
    assert_eq!(instance.send("DELETE", "/users/7", None).await, (204, json!("")));
    assert_eq!(instance.get(7).await, (404, missing.clone()));
    assert_eq!(instance.send("DELETE", "/users/7", None).await, (404, missing));
}

#[tokio::test]
async fn users_are_kept_in_sqlite_and_cached_in_redis() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().await);
    let instance = Instance::start(&[("DATABASE_URL", &sqlite(&directory)), ("REDIS_URL", &redis.url())]).await;
    users_are_kept(&instance).await;
    assert_eq!(instance.put(8, "Cy").await, 201);
    assert_eq!(instance.get(8).await, (200, user(8, "Cy")));
    eventually("the user in Redis", async || (redis.cli(&["EXISTS", "users:8"]) == "1").then_some(())).await;
    instance.measures(r#"cache_tier_breaker_state{cache="users",tier="redis",state="closed"} 1"#).await;
}

#[tokio::test]
async fn users_are_kept_in_postgresql_and_cached_in_memory_alone() {
    let postgres = Postgres::shared().await;
    let instance = Instance::start(&[("DATABASE_URL", &postgres.url())]).await;
    assert!(instance.log().contains("REDIS_URL is not set: the cache is in memory alone"), "{}", instance.log());
    users_are_kept(&instance).await;
}

#[tokio::test]
async fn wrong_requests_are_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let instance = Instance::start(&[("DATABASE_URL", &sqlite(&directory))]).await;
    let problem = |status, title, detail| (status, json!({ "title": title, "status": status, "detail": detail }));
    for (method, path, body, status, title, detail) in [
        ("GET", "/users/x", None, 400, "Bad Request", "Invalid URL: Cannot parse `x` to a `i64`"),
        ("GET", "/user/1", None, 404, "Not Found", "there is nothing at this path"),
        (
            "PUT",
            "/users/1",
            None,
            415,
            "Unsupported Media Type",
            "Expected request with `Content-Type: application/json`",
        ),
        (
            "PUT",
            "/users/1",
            Some(json!({ "name": "Ada" })),
            400,
            "Bad Request",
            "Failed to deserialize the JSON body into the target type: missing field `email` at line 1 column 14",
        ),
        (
            "PUT",
            "/users/1",
            Some(json!({ "name": " ", "email": "a@b" })),
            400,
            "Bad Request",
            "`name` must have 1 to 200 bytes",
        ),
        (
            "PUT",
            "/users/1",
            Some(json!({ "name": "Ada", "email": "ada" })),
            400,
            "Bad Request",
            "`email` must have an @, and 320 bytes at most",
        ),
    ] {
        assert_eq!(instance.send(method, path, body).await, problem(status, title, detail));
    }
}

#[tokio::test]
async fn wrong_settings_are_reported_without_passwords() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let refused = format!("postgres://app:hunter2@127.0.0.1:{port}/users");
    let misspelt = format!("postgres://app@127.0.0.1:{port}/users?passwd=hunter2");
    let no_directory = format!("sqlite://{}/missing/users.db?mode=rwc", directory.path().display());
    let database = sqlite(&directory);
    let cannot = "cannot use the database of DATABASE_URL";
    for (settings, expected) in [
        (vec![("DATABASE_URL", &refused[..])], format!("{cannot} (PostgreSQL): error communicating with database")),
        (vec![("DATABASE_URL", &misspelt)], format!("{cannot} (PostgreSQL): error communicating with database")),
        (vec![("DATABASE_URL", "mysql://app:hunter2@h/d")], "DATABASE_URL names no known database".to_owned()),
        (
            vec![("DATABASE_URL", "postgres://app:hun/ter2@h/d")],
            format!("{cannot} (PostgreSQL): error with configuration"),
        ),
        (vec![("DATABASE_URL", &no_directory)], format!("{cannot} (SQLite): error returned from database")),
        (
            vec![("DATABASE_URL", &database), ("REDIS_URL", "redis://app:hunter2@")],
            "cannot use REDIS_URL: the Redis URL is invalid".to_owned(),
        ),
        (vec![("DATABASE_URL", &database), ("LISTEN", "localhost")], "LISTEN is \"localhost\"".to_owned()),
    ] {
        let (code, log) = Instance::fail(&settings).await;
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(&format!("ERROR {expected}")), "{expected} is not in:\n{log}");
        assert!(!log.contains("hunter2") && !log.contains("ter2"), "{log}");
    }
}

#[tokio::test]
async fn sigterm_ends_it_after_the_requests_have_finished() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().await);
    let settings = [("DATABASE_URL", &sqlite(&directory)[..]), ("REDIS_URL", &redis.url())];
    let mut instance = Instance::start(&settings).await;

    // A request that is in progress: the service asks for its body.
    let body = profile("Ada").to_string();
    let head = format!(
        "PUT /users/1 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        body.len()
    );
    let mut wire = BufReader::new(TcpStream::connect(instance.address).await.unwrap());
    wire.write_all(head.as_bytes()).await.unwrap();
    let mut line = String::new();
    wire.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");

    // An open page does not hold it up.
    let mut page = TcpStream::connect(instance.address).await.unwrap();
    page.write_all(b"GET /cache/events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    page.read_u8().await.unwrap();

    instance.terminate();
    instance.logs("ending: no new connections").await;
    eventually("an end of listening", async || {
        let refused = TcpStream::connect(instance.address).await.err()?;
        (refused.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    })
    .await;

    wire.write_all(body.as_bytes()).await.unwrap();
    let mut response = String::new();
    wire.read_to_string(&mut response).await.unwrap();
    assert!(response.trim_start().starts_with("HTTP/1.1 201 Created\r\n"), "{response}");
    let shown: Value = serde_json::from_str(response.lines().last().unwrap()).unwrap();
    assert_eq!(shown, user(1, "Ada"));
    assert_eq!(instance.ended().await.code(), Some(0), "{}", instance.log());

    let next = Instance::start(&settings).await;
    assert_eq!(next.get(1).await, (200, user(1, "Ada")));
}
