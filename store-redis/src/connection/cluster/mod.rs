//! Redis Cluster: which node holds a key now.
//!
//! Each node is one server as any other: with links, an identity and a clock of its own. What a
//! cluster adds is the table of the slots. It is read at the first call, and corrected by the nodes
//! themselves: one that does not hold a slot any more names the one that does.

mod reading;
pub(super) mod slot_reports;
pub(crate) mod slots;
pub(crate) mod watch;
mod watching;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use cache_core::{Result, SharedClock, backend::lock};
use futures_util::future::{BoxFuture, Shared};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo};
use tokio::time::Instant;

use self::{
    slots::{Range, SLOTS},
    watch::Watch,
};
use super::{
    error,
    link::Target,
    login::client_at,
    node::Node,
    redirection::Address,
    server::{Role, Server},
    source::Source,
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

/// A reading of the slots, which all calls that need it wait for.
type Reading = Shared<BoxFuture<'static, Result<()>>>;

/// The slots are not read again sooner than this after the last reading began for a call whose slot has
/// no node.
const UNOWNED_PAUSE: Duration = Duration::from_millis(50);

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

    /// Notes that a slot is with the node at this address, as the node `from` has answered, and returns
    /// it. Returns `None` if the address cannot be used.
    pub(crate) fn moved(&self, slot: u16, to: &Address, from: &Node) -> Option<Arc<Node>> {
        let mut state = lock(&self.state);
        let at = self.named_by(from, to, &mut state)?;
        let owner = u16::try_from(at).ok()?;
        let node = Arc::clone(&state.members[at].node);
        let is_promoted = !state.owners.contains(&owner);
        state.owners[usize::from(slot.min(SLOTS - 1))] = owner;
        drop(state);
        if is_promoted {
            // Its connections are from before, when it was a primary, too.
            node.replace_all();
        }
        self.read_slots_soon();
        Some(node)
    }

    /// Returns the node at this address, to which a slot of the node `from` is on its way. Returns `None`
    /// if the address cannot be used.
    pub(crate) fn receiver(&self, to: &Address, from: &Node) -> Option<Arc<Node>> {
        let mut state = lock(&self.state);
        let at = self.named_by(from, to, &mut state)?;
        Some(Arc::clone(&state.members[at].node))
    }

    /// Returns the place of the node that another one has named, and tells the watches that calls go
    /// there.
    fn named_by(&self, from: &Node, to: &Address, state: &mut State) -> Option<usize> {
        let to = to.clone().or_host(&host_of(from.address()));
        let at = self.member(state, &to).ok()?;
        self.tell_watches(&state.members[at].node);
        Some(at)
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
            // Its connections are from before, when it was a primary, too.
            node.replace_all();
        }
        Ok(())
    }

    /// Returns `true` if this node holds slots, as far as is known.
    pub(super) fn is_owner(&self, node: &Arc<Node>) -> bool {
        self.owners().iter().any(|owner| Arc::ptr_eq(owner, node))
    }

    /// Returns `true` if this node holds the slot, as far as is known.
    pub(crate) fn holds(&self, node: &Arc<Node>, slot: u16) -> bool {
        self.owner(slot).is_some_and(|owner| Arc::ptr_eq(&owner, node))
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
