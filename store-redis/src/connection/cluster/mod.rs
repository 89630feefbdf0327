//! Redis Cluster: which node holds a key now.
//!
//! Each node is one server as any other: with links, an identity and a clock of its own. What a
//! cluster adds is the table of the slots. It is read at the first call, and corrected by the nodes
//! themselves: one that does not hold a slot any more names the one that does.

pub(super) mod claims;
pub(crate) mod slots;
pub(crate) mod watch;

use std::{
    collections::HashSet,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use cache_core::{
    Error, ErrorKind, Result, SharedClock,
    backend::{lock, write_id},
};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, join_all},
};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, Pipeline, Value, cmd};
use tokio::time::{Instant, timeout, timeout_at};

use self::{
    claims::Claim,
    slots::{Range, SLOTS},
    watch::Watch,
};
use super::{
    call::Call,
    error,
    link::Target,
    node::Node,
    redirection::{Address, Redirection},
    reply::{check, info_field, text},
    runtime,
    server::{Role, Server},
    source::{Source, client_at},
    survey::survey,
};

/// The nodes of a cluster, and the slots that they hold.
pub(crate) struct Cluster {
    this: Weak<Cluster>,
    /// Nodes that the user has named. The first tells how to log in to all.
    seeds: Vec<Client>,
    settings: Settings,
    state: Mutex<State>,
    watches: Mutex<Vec<Weak<Watch>>>,
}

/// How to connect to a node.
pub(super) struct Settings {
    pub(super) config: AsyncConnectionConfig,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) links: usize,
    pub(super) clock: SharedClock,
    pub(super) trust_restarts: bool,
    pub(super) replicas: usize,
}

struct State {
    /// For each slot, the position of its node in `members`, or `NOBODY`.
    owners: Vec<u16>,
    members: Vec<Member>,
    /// The last reading of the slots, which may be under way.
    reading: Option<(Reading, Instant)>,
}

/// A node. One that holds no slots is kept for some time: it may be a replica that takes over, or be
/// about to receive its first slot, and the server must close its old connections before new ones are
/// used.
struct Member {
    address: Address,
    node: Arc<Node>,
    /// When it was last named.
    named: Instant,
}

/// How long a node is kept that no other node names any more.
const KEPT: Duration = Duration::from_secs(60);

const NOBODY: u16 = u16::MAX;

type Reading = Shared<BoxFuture<'static, Result<()>>>;

/// The slots are not read again sooner than this after the last reading began, unless a call waits for
/// it.
const MIN_PAUSE: Duration = Duration::from_millis(200);

/// The same for a call whose slot has no node.
const UNOWNED_PAUSE: Duration = Duration::from_millis(50);

/// The most nodes that one reading asks.
const MAX_ASKED: usize = 8;

impl Cluster {
    /// Creates the table of a cluster that one of these nodes belongs to.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if an address is invalid.
    pub(super) fn new(seeds: &[Client], settings: Settings) -> Result<Arc<Self>> {
        let login = seeds.first().ok_or_else(error::unexpected)?.get_connection_info();
        let addresses = seeds.iter().map(|seed| seed.get_connection_info().addr());
        let seeds = addresses.filter_map(place_of).map(|(host, port)| client_at(login, host, port));
        let seeds = seeds.collect::<Result<_>>()?;
        let state = State { owners: vec![NOBODY; usize::from(SLOTS)], members: Vec::new(), reading: None };
        Ok(Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            seeds,
            settings,
            state: Mutex::new(state),
            watches: Mutex::default(),
        }))
    }

    fn login(&self) -> &ConnectionInfo {
        self.seeds[0].get_connection_info()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Returns the node that holds a slot, for a call that began at `started`.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `Unavailable` if no node does, or the error of reading the slots.
    pub(crate) async fn node_of(&self, slot: u16, started: Instant) -> Result<Arc<Node>> {
        if let Some(node) = self.owner(slot) {
            return Ok(node);
        }
        // Many calls may ask for a slot without a node.
        self.read_slots_after(UNOWNED_PAUSE, started).await?;
        self.owner(slot).ok_or_else(|| error::unowned(slot))
    }

    fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        let state = lock(&self.state);
        let owner = state.members.get(usize::from(state.owners[usize::from(slot)]))?;
        Some(Arc::clone(&owner.node))
    }

    /// Returns the nodes that hold slots.
    ///
    /// # Errors
    ///
    /// Returns the error of reading the slots.
    pub(crate) async fn primaries(&self, started: Instant) -> Result<Vec<Arc<Node>>> {
        let owners = self.owners();
        if !owners.is_empty() {
            return Ok(owners);
        }
        self.read_slots(started).await?;
        Ok(self.owners())
    }

    fn owners(&self) -> Vec<Arc<Node>> {
        let state = lock(&self.state);
        let owners: HashSet<u16> = state.owners.iter().copied().collect();
        let owns = |at: usize| u16::try_from(at).is_ok_and(|at| owners.contains(&at));
        let members = state.members.iter().enumerate().filter(|(at, _)| owns(*at));
        members.map(|(_, member)| Arc::clone(&member.node)).collect()
    }

    /// Returns the node to ask after a redirection, and whether the keys are on their way to it.
    /// Returns `None` if the same is to be asked again. `from` is the node that has redirected the call.
    pub(crate) fn follow(&self, redirection: &Redirection, from: &Node) -> Option<(Arc<Node>, bool)> {
        let (to, moved) = match redirection {
            Redirection::Moved { slot, to } => (to, Some(*slot)),
            Redirection::Ask { to, .. } => (to, None),
            Redirection::Again => return None,
        };
        let to = to.clone().or_host(&host_of(from.address()));
        let mut state = lock(&self.state);
        // A node with an address that cannot be used is as good as none.
        let at = self.member(&mut state, &to).ok()?;
        self.tell_watches(&state.members[at].node);
        let node = Arc::clone(&state.members[at].node);
        let mut is_promoted = false;
        if let (Some(slot), Ok(owner)) = (moved, u16::try_from(at)) {
            is_promoted = !state.owners.contains(&owner);
            state.owners[usize::from(slot.min(SLOTS - 1))] = owner;
        }
        drop(state);
        if is_promoted {
            node.replace_all();
        }
        if moved.is_some() {
            self.read_slots_soon();
        }
        Some((node, moved.is_none()))
    }

    /// Returns the place of the node with this address.
    fn member(&self, state: &mut State, address: &Address) -> Result<usize> {
        if let Some(at) = state.members.iter().position(|member| member.address == *address) {
            state.members[at].named = Instant::now();
            return Ok(at);
        }
        let client = client_at(self.login(), &address.host, address.port)?;
        let Settings { config, connect_timeout, timeout, links, clock, trust_restarts, replicas } = &self.settings;
        let target = Target {
            source: Source::Fixed(Box::new(client)),
            config: config.clone(),
            connect_timeout: *connect_timeout,
            role: Role::Shard,
            replicas: *replicas,
            server: Server::new(Arc::clone(clock), *trust_restarts),
        };
        let node = Node::new(target, *links, *timeout);
        state.members.push(Member { address: address.clone(), node, named: Instant::now() });
        Ok(state.members.len() - 1)
    }

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
    async fn read_slots_after(&self, pause: Duration, started: Instant) -> Result<()> {
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

    /// Replaces the table.
    fn install(&self, ranges: &[Range]) -> Result<()> {
        let mut state = lock(&self.state);
        let before: HashSet<u16> = state.owners.iter().copied().collect();
        let mut owners = vec![NOBODY; usize::from(SLOTS)];
        for range in ranges {
            let at = self.member(&mut state, &range.primary)?;
            let owner = u16::try_from(at).unwrap_or(NOBODY);
            owners[usize::from(range.first)..=usize::from(range.last)].fill(owner);
        }
        let now: HashSet<u16> = owners.iter().copied().filter(|owner| *owner != NOBODY).collect();
        let nodes = |members: &[Member], at: &mut dyn Iterator<Item = &u16>| -> Vec<Arc<Node>> {
            at.filter_map(|at| Some(Arc::clone(&members.get(usize::from(*at))?.node))).collect()
        };
        let promoted = nodes(&state.members, &mut now.difference(&before));
        // Before calls go to them.
        for node in nodes(&state.members, &mut now.iter()) {
            self.tell_watches(&node);
        }
        state.owners = owners;
        let gone = state.forget(ranges, |node| self.is_watched(node));
        drop(state);
        // Dropped outside of the lock: it may be the last handle of a connection.
        drop(gone);
        for node in promoted {
            // What was known of it is from before, when it was a primary, too.
            node.replace_all();
        }
        Ok(())
    }

    /// Returns all primaries with slots, and what they say of them.
    ///
    /// # Errors
    ///
    /// Returns the error of a node.
    pub(crate) async fn layout(&self) -> Result<Layout> {
        let started = Instant::now();
        self.read_slots(started).await?;
        let primaries = self.owners();
        let claims = join_all(primaries.iter().map(async |node| {
            let [mut info, mut nodes] = [cmd("CLUSTER"), cmd("CLUSTER")];
            info.arg("INFO");
            nodes.arg("NODES");
            let call = Call::since(node, started);
            Claim::parse(call.ask(0, info).await?, call.ask(0, nodes).await?)
        }));
        let claims = claims.await.into_iter().collect::<Result<_>>()?;
        Ok(Layout { primaries, claims })
    }

    /// Returns the primaries that hold no slots: one may be about to receive some.
    ///
    /// # Errors
    ///
    /// Returns the error of asking a node.
    async fn idle_primaries(&self, primary: &Arc<Node>, started: Instant) -> Result<Vec<Arc<Node>>> {
        let mut nodes = cmd("CLUSTER");
        nodes.arg("NODES");
        let reply = Call::since(primary, started).ask(0, nodes).await?;
        let reply = text(&reply).ok_or_else(error::unexpected)?;
        let idle: Vec<Arc<Node>> = {
            let mut state = lock(&self.state);
            let is_known = |address: &Address| state.members.iter().any(|member| member.address == *address);
            let idle = claims::idle_primaries(&reply, is_known);
            let own_host = host_of(primary.address());
            let mut place = |address: Address| self.member(&mut state, &address.or_host(&own_host));
            let places = idle.into_iter().map(&mut place).collect::<Result<Vec<usize>>>()?;
            places.into_iter().map(|at| Arc::clone(&state.members[at].node)).collect()
        };
        // One that cannot be reached must not hold up the stream: nothing is proven once it gets slots.
        let ping = async |node| Call::since(node, started).ask(0, cmd("PING")).await;
        let answers = join_all(idle.iter().map(ping)).await;
        Ok(idle.into_iter().zip(answers).filter(|(_, answer)| answer.is_ok()).map(|(node, _)| node).collect())
    }

    /// Starts a watch over all primaries, with and without slots; see [`Watch`].
    ///
    /// # Errors
    ///
    /// Returns the error of reading the slots.
    pub(crate) async fn watch_all(&self, started: Instant) -> Result<Arc<Watch>> {
        self.read_slots(started).await?;
        let mut nodes = self.owners();
        let first = nodes.first().ok_or_else(|| error::unowned(0))?;
        let idle = self.idle_primaries(first, started).await?;
        nodes.extend(idle);
        Ok(self.watch(nodes))
    }

    /// Returns `true` if this node holds slots, as far as is known.
    pub(super) fn is_owner(&self, node: &Arc<Node>) -> bool {
        self.owners().iter().any(|owner| Arc::ptr_eq(owner, node))
    }

    /// Returns `true` if this node holds the slot, as far as is known.
    pub(crate) fn holds(&self, node: &Arc<Node>, slot: u16) -> bool {
        self.owner(slot).is_some_and(|owner| Arc::ptr_eq(&owner, node))
    }

    /// Starts a watch over these nodes; see [`Watch`].
    fn watch(&self, nodes: Vec<Arc<Node>>) -> Arc<Watch> {
        let watch = Arc::new(Watch::new(nodes));
        let mut watches = lock(&self.watches);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&watch));
        watch
    }

    fn is_watched(&self, node: &Arc<Node>) -> bool {
        lock(&self.watches).iter().filter_map(Weak::upgrade).any(|watch| watch.has(node))
    }

    /// Tells the watches that calls go to this node.
    fn tell_watches(&self, node: &Arc<Node>) {
        for watch in lock(&self.watches).iter().filter_map(Weak::upgrade) {
            watch.notice(node);
        }
    }
}

impl State {
    /// Removes and returns the nodes that have left the cluster.
    fn forget(&mut self, ranges: &[Range], is_watched: impl Fn(&Arc<Node>) -> bool) -> Vec<Member> {
        let known: HashSet<&Address> =
            ranges.iter().flat_map(|range| [&range.primary].into_iter().chain(&range.replicas)).collect();
        let is_kept = |member: &Member| {
            known.contains(&member.address) || member.named.elapsed() < KEPT || is_watched(&member.node)
        };
        let members = std::mem::take(&mut self.members).into_iter().enumerate();
        let (kept, gone): (Vec<_>, Vec<_>) = members.partition(|(_, member)| is_kept(member));
        let mut places = vec![NOBODY; kept.len() + gone.len()];
        for (new, (old, _)) in kept.iter().enumerate() {
            places[*old] = u16::try_from(new).unwrap_or(NOBODY);
        }
        for owner in &mut self.owners {
            *owner = places.get(usize::from(*owner)).copied().unwrap_or(NOBODY);
        }
        self.members = kept.into_iter().map(|(_, member)| member).collect();
        gone.into_iter().map(|(_, member)| member).collect()
    }
}

/// The primaries with slots, and what they say of them.
pub(crate) struct Layout {
    pub(crate) primaries: Vec<Arc<Node>>,
    pub(crate) claims: Vec<Claim>,
}

impl Layout {
    /// Returns `true` if these nodes hold all slots that are held, and none is on its way to another.
    pub(crate) fn is_stable(&self) -> bool {
        let claims: Vec<&Claim> = self.claims.iter().collect();
        claims.iter().all(|claim| claim.is_stable() && claim.knows_no_holder_but(&claims))
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

fn host_of(address: &ConnectionAddr) -> String {
    place_of(address).map(|(host, _)| host.to_owned()).unwrap_or_default()
}

/// Returns the host and the port.
fn place_of(address: &ConnectionAddr) -> Option<(&str, u16)> {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Some((host, *port)),
        _ => None,
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_list().entries(state.members.iter().map(|member| format!("{}", member.address))).finish()
    }
}
