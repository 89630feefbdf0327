//! Reads which node holds which slots.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Weak, time::Duration};

use cache_core::{
    Error, ErrorKind, Result,
    backend::{lock, write_id},
};
use futures_util::FutureExt as _;
use redis::{Client, Pipeline, Value};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Cluster, Reading, host_of,
    slots::{self, Range},
};
use crate::connection::{
    error,
    login::client_at,
    redirection::Address,
    reply::{check, info_field},
    runtime,
    survey::survey,
};

/// The slots are not read again sooner than this after the last reading began, unless a call waits for
/// it.
const MIN_PAUSE: Duration = Duration::from_millis(200);

/// The most nodes that one reading asks.
const MAX_ASKED: usize = 8;

impl Cluster {
    /// Reads the slots anew, or waits for the reading that is under way, until the deadline of a call
    /// that began at `started`.
    pub(crate) async fn read_slots(&self, started: Instant) -> Result<()> {
        self.read_slots_after(Duration::ZERO, started).await
    }

    /// Waits for the last reading of the slots, if it is under way.
    pub(crate) async fn wait_for_slots(&self, started: Instant) -> Result<()> {
        self.read_slots_after(MIN_PAUSE, started).await
    }

    /// As `read_slots`, unless the last reading began less than `pause` ago.
    pub(super) async fn read_slots_after(&self, pause: Duration, started: Instant) -> Result<()> {
        if runtime::has_ended(&runtime::current()?) {
            return Err(runtime::ended());
        }
        let reading = self.reading(pause);
        let limit = self.settings.timeout;
        let read = timeout_at(started + limit, reading).await;
        read.unwrap_or_else(|_| Err(error::timed_out(limit)))
    }

    /// Starts to read the slots, unless they were read just now.
    pub(crate) fn read_slots_soon(&self) {
        drop(self.reading(MIN_PAUSE));
    }

    /// Returns the reading that is under way or, if the last one began longer ago than `pause`, a new
    /// one.
    fn reading(&self, pause: Duration) -> Reading {
        // One that hangs has lost its runtime.
        let hangs = self.settings.connect_timeout * 3;
        let mut state = lock(&self.state);
        if let Some((reading, began)) = &state.reading {
            let is_under_way = reading.peek().is_none() && began.elapsed() < hangs;
            if is_under_way || began.elapsed() < pause {
                return reading.clone();
            }
        }
        let this = Weak::clone(&self.this);
        let read = async move {
            let Some(cluster) = this.upgrade() else { return Ok(()) };
            cluster.read().await
        };
        // The timers of a runtime that ends panic.
        let read = AssertUnwindSafe(read).catch_unwind();
        let reading = read.map(|read| read.unwrap_or_else(|_| Err(runtime::ended()))).boxed().shared();
        state.reading = Some((reading.clone(), Instant::now()));
        drop(state);
        // It goes on if its caller leaves.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(reading.clone().map(drop));
        }
        reading
    }

    async fn read(&self) -> Result<()> {
        let clients = self.clients_to_ask();
        let asked = clients.len();
        let views = survey(clients.iter().map(|client| self.ask(client))).await;
        let views = views.map_err(|error| match error {
            Some(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Denied) => error,
            error => error::unreachable_cluster(asked, error),
        })?;
        // A node that is cut off from the others may have an old view.
        let latest = views.into_iter().max_by_key(|view| (view.is_ok, view.epoch));
        let ranges = latest.map(|view| view.ranges).unwrap_or_default();
        self.install(&ranges)
    }

    /// Returns clients of known nodes and of those that the user has named.
    fn clients_to_ask(&self) -> Vec<Client> {
        let state = lock(&self.state);
        let known: Vec<&Address> = state.members.iter().map(|member| &member.address).collect();
        // Not always the same ones.
        let first = usize::try_from(write_id::next() % (known.len().max(1) as u64)).unwrap_or_default();
        let known = known.iter().cycle().skip(first).take(known.len().min(MAX_ASKED));
        let known = known.filter_map(|address| client_at(self.login(), &address.host, address.port).ok());
        let clients: Vec<Client> = known.chain(self.seeds.iter().take(MAX_ASKED).cloned()).collect();
        drop(state);
        let mut seen = HashSet::new();
        clients.into_iter().filter(|client| seen.insert(client.get_connection_info().addr().to_string())).collect()
    }

    async fn ask(&self, client: &Client) -> Result<View> {
        let limit = self.settings.connect_timeout;
        let asking = async {
            let address = client.get_connection_info().addr();
            let connected = client.get_multiplexed_async_connection_with_config(&self.settings.config).await;
            let mut connection = connected.map_err(|error| error::connect_failed(&error, address))?;
            let mut questions = Pipeline::with_capacity(2);
            questions.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
            let replies = connection.send_packed_commands(&questions, 0, 2).await;
            let [info, slots] =
                replies.map_err(|error| error::broken(&error))?.try_into().map_err(|_| error::unexpected())?;
            View::parse(&info, slots, &host_of(address))
        };
        timeout(limit, asking).await.unwrap_or_else(|_| Err(error::timed_out(limit)))
    }
}

/// The cluster as one node sees it.
struct View {
    /// `true` if the node takes part in a cluster that serves all slots.
    is_ok: bool,
    /// Rises with each failover and each slot that moves.
    epoch: u64,
    ranges: Vec<Range>,
}

impl View {
    /// Parses the replies to CLUSTER INFO and CLUSTER SLOTS of the node at `host`.
    fn parse(info: &Value, slots: Value, host: &str) -> Result<Self> {
        let slots = check(slots).map_err(|error| if is_no_cluster(&error) { error::no_cluster() } else { error })?;
        // It may be denied.
        let is_ok = info_field(info, "cluster_state:").is_none_or(|state| state == "ok");
        let epoch = info_field(info, "cluster_current_epoch:").and_then(|epoch| epoch.parse().ok());
        let mut ranges = slots::parse(slots)?;
        for range in &mut ranges {
            range.primary = range.primary.clone().or_host(host);
            range.replicas = range.replicas.iter().map(|replica| replica.clone().or_host(host)).collect();
        }
        Ok(Self { is_ok, epoch: epoch.unwrap_or_default(), ranges })
    }
}

/// Returns `true` for the reply of a server whose support for clusters is disabled.
fn is_no_cluster(error: &Error) -> bool {
    format!("{error:#}").contains("cluster support disabled")
}
