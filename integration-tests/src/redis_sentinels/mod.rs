//! A Redis with replicas and sentinels that a test has for itself.
//!
//! - `formation`: how they start;
//! - `state`: what the sentinels agree on, and how to wait for it;
//! - `failover`: how a replica becomes the primary.

mod failover;
mod formation;
mod state;

pub use formation::SentinelSettings;

use crate::{certificates::Certificates, redis_server::RedisServer};

/// The name by which the sentinels know the servers.
const NAME: &str = "cache";

/// A primary with two replicas, watched by three sentinels, on free ports of the loopback. They end with
/// this value.
///
/// Servers are known by their index, which they keep: the primary is the server 0 at first. Two
/// sentinels must agree on a failover.
///
/// Methods that wait panic after 30 s, with what each sentinel and each server knows.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<RedisServer>,
    /// The ports by which the sentinels know the servers.
    ports: Vec<String>,
    sentinels: Vec<RedisServer>,
    certificates: Option<Certificates>,
}

impl RedisSentinels {
    /// Returns the name by which the sentinels know the servers.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// Returns the URLs of the sentinels without TLS, and without the password.
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// Returns the URLs of the sentinels with TLS: `rediss://127.0.0.1:<port>/`.
    ///
    /// # Panics
    ///
    /// Panics if they do not speak TLS.
    pub fn sentinel_tls_urls(&self) -> Vec<String> {
        self.sentinels
            .iter()
            .map(|sentinel| format!("rediss://127.0.0.1:{}/", sentinel.setting_in_file("tls-port")))
            .collect()
    }

    /// Returns the certificates that the servers and the sentinels use, if they speak TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Returns the primary and the replicas.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// Returns the primary and the replicas, to kill or restart them.
    pub fn servers_mut(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// Returns the primary or a replica.
    pub fn server(&self, index: usize) -> &RedisServer {
        &self.servers[index]
    }

    /// Returns a sentinel.
    pub fn sentinel(&self, index: usize) -> &RedisServer {
        &self.sentinels[index]
    }

    /// Suspends a server, as one that hangs (`SIGSTOP`). If it is the primary, the sentinels fail over.
    pub fn stop(&self, server: usize) {
        self.servers[server].stop();
    }

    /// Resumes a server after [`stop`](Self::stop). A primary that another one has replaced takes itself for
    /// the primary until the sentinels make it a replica, some 3 s later.
    pub fn resume(&self, server: usize) {
        self.servers[server].resume();
    }

    /// Kills a server (`SIGKILL`). If it is the primary, the sentinels fail over.
    pub fn kill(&mut self, server: usize) {
        self.servers[server].kill();
    }

    /// Starts a server again after [`kill`](Self::kill), without its data, in the role that it had. A primary
    /// that another one has replaced takes itself for the primary until the sentinels make it a replica,
    /// some 3 s later.
    pub fn restart(&mut self, server: usize) {
        self.servers[server].restart();
    }

    /// Suspends a sentinel (`SIGSTOP`).
    pub fn stop_sentinel(&self, sentinel: usize) {
        self.sentinels[sentinel].stop();
    }

    /// Resumes a sentinel after [`stop_sentinel`](Self::stop_sentinel).
    pub fn resume_sentinel(&self, sentinel: usize) {
        self.sentinels[sentinel].resume();
    }

    /// Kills a sentinel (`SIGKILL`).
    pub fn kill_sentinel(&mut self, sentinel: usize) {
        self.sentinels[sentinel].kill();
    }

    /// Starts a sentinel again after [`kill_sentinel`](Self::kill_sentinel). It knows what it knew.
    pub fn restart_sentinel(&mut self, sentinel: usize) {
        self.sentinels[sentinel].restart();
        formation::hurry(&self.sentinels[sentinel]);
    }
}
