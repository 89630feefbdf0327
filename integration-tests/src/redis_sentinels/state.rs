//! What the sentinels agree on, and how to wait for it.

use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{NAME, RedisSentinels};
use crate::{redis_server::RedisServer, redis_wire::Reply};

impl RedisSentinels {
    /// Returns the primary that most of the sentinels report.
    ///
    /// # Panics
    ///
    /// Panics if they report different ones, or most of them do not run.
    pub fn primary(&self) -> usize {
        let reported: Vec<usize> = self.reported_primaries().into_iter().flatten().collect();
        let votes = |server: &usize| reported.iter().filter(|&other| other == server).count();
        let primary = (0..self.servers.len()).find(|server| votes(server) * 2 > self.sentinels.len());
        primary.unwrap_or_else(|| panic!("most sentinels do not report the same primary; {}", self.report()))
    }

    /// Waits until the sentinels that run agree on a primary that runs, the other servers that run have its data,
    /// and the sentinels hold each of them to be up. What was written before survives the primary.
    pub async fn wait_until_whole(&self) {
        self.wait("a whole set of servers and sentinels", || {
            let primary = self.agreed_primary()?;
            let follow = self.running_servers().all(|server| server == primary || self.follows(server, primary));
            let mut sentinels = self.sentinels.iter().filter(|sentinel| sentinel.is_running());
            (follow && sentinels.all(|sentinel| self.holds_all_up(sentinel))).then_some(())
        })
        .await;
    }

    /// Waits until `condition` returns something, and returns it.
    pub(super) async fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = condition() {
                return found;
            }
            let is_late = started.elapsed() > Duration::from_secs(30);
            assert!(!is_late, "{what} did not come about within 30 s; {}", self.report());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the primary, if all sentinels that run report it, and it is one.
    pub(super) fn agreed_primary(&self) -> Option<usize> {
        let reported = self.reported_primaries();
        let primary = (*reported.first()?)?;
        let is_primary = || {
            let role = self.servers[primary].answer(&["ROLE"]).map(Reply::into_elements);
            role.is_some_and(|role| role.first().is_some_and(|role| role == b"master"))
        };
        (reported.iter().all(|other| *other == Some(primary)) && is_primary()).then_some(primary)
    }

    pub(super) fn report(&self) -> String {
        let mut report = "the sentinels and servers know:".to_owned();
        let text = |server: &RedisServer, arguments: &[&str]| {
            if server.is_running() { server.cli(arguments) } else { "does not run".to_owned() }
        };
        for (index, sentinel) in self.sentinels.iter().enumerate() {
            let _ = write!(report, "\nsentinel {index}: {:?}", self.reported_primary(sentinel));
            for of in ["MASTERS", "REPLICAS", "SENTINELS"] {
                let arguments = ["SENTINEL", of, NAME];
                let rows = maps(sentinel.answer(if of == "MASTERS" { &arguments[..2] } else { &arguments }));
                let _ = write!(report, "\n{of}: {rows:?}");
            }
        }
        for (index, server) in self.servers.iter().enumerate() {
            let info = text(server, &["INFO", "replication"]);
            let _ = write!(report, "\nserver {index}, port {}:\n{info}", self.ports[index]);
        }
        report
    }

    fn running_servers(&self) -> impl Iterator<Item = usize> {
        (0..self.servers.len()).filter(|&index| self.servers[index].is_running())
    }

    /// Returns the primary that each sentinel that runs reports.
    fn reported_primaries(&self) -> Vec<Option<usize>> {
        let running = self.sentinels.iter().filter(|sentinel| sentinel.is_running());
        running.map(|sentinel| self.reported_primary(sentinel)).collect()
    }

    fn reported_primary(&self, sentinel: &RedisServer) -> Option<usize> {
        let address = sentinel.answer(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME])?.into_elements();
        self.ports.iter().position(|port| address.last().is_some_and(|last| last == port.as_bytes()))
    }

    /// Whether a server is a replica of this primary and has its data.
    fn follows(&self, server: usize, primary: usize) -> bool {
        let (replica, primary) = (&self.servers[server], (&self.servers[primary], &self.ports[primary]));
        replica.replication("master_port").is_some_and(|port| port == *primary.1) && replica.has_data_of(primary.0)
    }

    /// Whether a sentinel holds all servers and sentinels that run to be up, and no failover goes on.
    fn holds_all_up(&self, sentinel: &RedisServer) -> bool {
        let is = |row: &Row, name: &str, value: &str| row.get(name).is_some_and(|is| is == value);
        let masters = maps(sentinel.answer(&["SENTINEL", "MASTERS"]));
        let replicas = maps(sentinel.answer(&["SENTINEL", "REPLICAS", NAME]));
        let sentinels = maps(sentinel.answer(&["SENTINEL", "SENTINELS", NAME]));
        let is_up = |rows: &[Row], port: &str, flags: &str| {
            rows.iter().any(|row| is(row, "port", port) && is(row, "flags", flags))
        };
        let knows_server = |index: usize| {
            let port = &self.ports[index];
            is_up(&masters, port, "master")
                || (is_up(&replicas, port, "slave")
                    && replicas.iter().any(|row| is(row, "port", port) && is(row, "master-link-status", "ok")))
        };
        masters.len() == 1
            && sentinels.len() == self.sentinels.len() - 1
            && self.running_servers().all(knows_server)
            && self
                .sentinels
                .iter()
                .filter(|other| other.is_running() && other.port() != sentinel.port())
                .all(|other| is_up(&sentinels, &self.port_of_sentinel(other), "sentinel"))
    }

    /// Returns the port at which other sentinels reach this one.
    fn port_of_sentinel(&self, sentinel: &RedisServer) -> String {
        sentinel.setting_in_file(if self.certificates.is_some() { "tls-port" } else { "port" })
    }
}

/// What a sentinel knows of a server, by name.
type Row = HashMap<String, String>;

/// Reads an array of names and values in turn, for each element of an array.
fn maps(reply: Option<Reply>) -> Vec<Row> {
    let Some(Reply::Array(rows)) = reply else { return Vec::new() };
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let row = |row: Reply| {
        let fields = row.into_elements();
        fields.chunks_exact(2).map(|field| (text(&field[0]), text(&field[1]))).collect()
    };
    rows.into_iter().map(row).collect()
}
