//! How servers and sentinels start.

use super::{NAME, RedisSentinels};
use crate::{certificates::Certificates, redis_server::RedisServer};

const SERVERS: usize = 3;
const SENTINELS: usize = 3;

/// How [`RedisSentinels`] start. The default has no passwords and no TLS.
#[derive(Debug, Default)]
pub struct SentinelSettings {
    /// The password of the servers, which the replicas and the sentinels know.
    pub password: Option<String>,
    /// The password of the sentinels.
    pub sentinel_password: Option<String>,
    /// With certificates, the servers and the sentinels speak TLS with the one named `server`: at a port of its own
    /// to clients, and among each other. Their plain ports stay open.
    pub certificates: Option<Certificates>,
    /// More settings of the servers, each a line of `redis.conf`.
    pub server_lines: Vec<String>,
}

impl RedisSentinels {
    /// Starts servers and sentinels without passwords.
    pub async fn start() -> Self {
        Self::start_with(SentinelSettings::default()).await
    }

    /// Starts servers and sentinels, and waits until the replicas have the data of the primary and the sentinels know
    /// each other and all servers.
    pub async fn start_with(settings: SentinelSettings) -> Self {
        let SentinelSettings { password, sentinel_password, certificates, server_lines } = settings;
        let tls_lines = certificates.as_ref().map(tls_lines).unwrap_or_default();

        let lines = ["save \"\"", "appendonly no", "repl-diskless-sync-delay 0"].map(str::to_owned);
        let passwords = password.iter().flat_map(|it| [format!("requirepass {it}"), format!("masterauth {it}")]);
        let lines: Vec<_> = lines.into_iter().chain(passwords).chain(tls_lines.clone()).chain(server_lines).collect();
        let servers = start_all(SERVERS, lines, None, password.clone()).await;
        let port = if certificates.is_some() { "tls-port" } else { "port" };
        let ports: Vec<String> = servers.iter().map(|server| server.setting(port)).collect();
        for replica in &servers[1..] {
            command(replica, &["REPLICAOF", "127.0.0.1", &ports[0]]);
            // The server is a replica again when it is restarted.
            command(replica, &["CONFIG", "REWRITE"]);
        }

        let lines = [
            "sentinel resolve-hostnames no".to_owned(),
            format!("sentinel monitor {NAME} 127.0.0.1 {} 2", ports[0]),
            format!("sentinel down-after-milliseconds {NAME} 500"),
            format!("sentinel failover-timeout {NAME} 2000"),
            format!("sentinel parallel-syncs {NAME} 1"),
        ];
        let passwords = password.iter().map(|it| format!("sentinel auth-pass {NAME} {it}"));
        let passwords = passwords.chain(sentinel_password.iter().map(|it| format!("requirepass {it}")));
        let lines = lines.into_iter().chain(passwords).chain(tls_lines).collect();
        let sentinels = start_all(SENTINELS, lines, Some("--sentinel"), sentinel_password.clone()).await;
        sentinels.iter().for_each(hurry);

        let started = Self { servers, ports, sentinels, certificates };
        started.wait_until_whole().await;
        started
    }
}

/// Lets a sentinel look at the servers and tell the other sentinels more often than by default, where
/// some changes take 20 s to be noticed.
pub(super) fn hurry(sentinel: &RedisServer) {
    let periods = ["info-period", "publish-period", "ping-period"].map(|period| (period, "200"));
    // A sentinel that was not scheduled for 2 s does nothing for 30 s by default.
    for (parameter, milliseconds) in periods.into_iter().chain([("tilt-period", "1000")]) {
        command(sentinel, &["SENTINEL", "DEBUG", parameter, milliseconds]);
    }
}

/// Starts this many servers at once.
async fn start_all(
    count: usize,
    lines: Vec<String>,
    mode: Option<&'static str>,
    password: Option<String>,
) -> Vec<RedisServer> {
    let start = || {
        let (lines, password) = (lines.clone(), password.clone());
        tokio::spawn(async move { RedisServer::start_from_file(&lines, mode, password.as_deref()).await })
    };
    let starting: Vec<_> = (0..count).map(|_| start()).collect();
    let mut servers = Vec::new();
    for server in starting {
        servers.push(server.await.expect("a server"));
    }
    servers
}

fn tls_lines(certificates: &Certificates) -> Vec<String> {
    let path = |file| certificates.path(file).display().to_string();
    vec![
        "tls-port {free_port}".to_owned(),
        format!("tls-cert-file {}", path("server.crt")),
        format!("tls-key-file {}", path("server.key")),
        format!("tls-ca-cert-file {}", path("ca.crt")),
        "tls-auth-clients no".to_owned(),
        "tls-replication yes".to_owned(),
    ]
}

/// Sends a command that returns OK.
fn command(server: &RedisServer, arguments: &[&str]) {
    assert_eq!(server.cli(arguments), "OK", "{arguments:?}");
}
