//! Nested calls: the graph of the flights that wait for each other.
//!
//! A loader, or the closure of an `Origin`, may call a chain. The flight in which this code runs
//! then waits for another flight. Every such wait is an edge of one graph per process, because
//! loaders call across chains. The graph serves two purposes:
//!
//! - A wait that would close a cycle is refused with an error that names the keys. It would never
//!   end.
//! - A load that holds a permit lends it to the loads that it waits for; see [`permits`]. Otherwise
//!   loads that hold all permits could wait for loads that need one.
//!
//! A task-local names the flight whose code is running. Calls outside of a flight do not touch the
//! graph.

mod permits;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cache_core::{Error, ErrorKind, Key, Result};
use tokio::sync::Notify;

pub(crate) use self::permits::admission;
use self::permits::{Lent, Links, pass_on};
use crate::util::sync::lock;

tokio::task_local! {
    /// The flight whose code is running.
    static CURRENT: Arc<Node>;
}

/// For each flight that waits: the flights that it waits for.
type Waits = BTreeMap<u64, Vec<Arc<Node>>>;

struct Graph {
    waits: Waits,
    links: Links,
}

static GRAPH: Mutex<Graph> = Mutex::new(Graph { waits: Waits::new(), links: Links::new() });

fn graph() -> MutexGuard<'static, Graph> {
    // No code of the application runs while this is locked.
    lock(&GRAPH)
}

/// The largest depth of lookups of batches inside of each other. A deeper one counts as an `Origin`
/// that reads itself.
const MAX_DEPTH: usize = 128;

/// The identity of a chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ChainId(u64);

impl ChainId {
    const MIN: Self = Self(u64::MIN);
    const MAX: Self = Self(u64::MAX);

    pub(crate) fn new() -> Self {
        Self(next_id())
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A flight as a node of the graph.
pub(crate) struct Node {
    id: u64,
    chain: ChainId,
    /// `None` if it is for several keys.
    pub(crate) key: Option<Key>,
    /// The number of lookups of batches that this one is nested in.
    depth: usize,
    /// `true` if its loader has begun to run.
    is_admitted: AtomicBool,
    /// Locked after the graph, if both are.
    lent: Mutex<Lent>,
    /// Notified when it needs no permit of its own.
    passed: Notify,
}

impl Node {
    pub(crate) fn new(chain: ChainId, key: Option<Key>) -> Self {
        Self {
            id: next_id(),
            chain,
            key,
            depth: 0,
            is_admitted: AtomicBool::new(false),
            lent: Mutex::default(),
            passed: Notify::new(),
        }
    }

    /// The node of a lookup of several keys. No caller can join it, so a recursion through it is
    /// detected by its depth.
    pub(crate) fn of_batch_lookup(chain: ChainId) -> Self {
        Self { depth: current().map_or(0, |current| current.depth + 1), ..Self::new(chain, None) }
    }

    #[cfg(all(test, shuttle))]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        lock(&self.lent)
    }
}

fn current() -> Option<Arc<Node>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Runs the code of a flight.
pub(crate) fn scope<F: Future>(flight: Arc<Node>, code: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(flight, code)
}

/// Returns the work as a function that runs as code of the current flight on any thread.
pub(crate) fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let flight = current();
    move || match flight {
        Some(flight) => CURRENT.sync_scope(flight, work),
        None => work(),
    }
}

/// A wait of one flight for another. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    from: u64,
    to: u64,
}

impl Wait {
    /// Notes that the current flight waits for this one. Returns `None` if no flight is current.
    ///
    /// # Errors
    ///
    /// Returns an error of kind [`Cycle`](ErrorKind::Cycle) if the flight waits, directly or
    /// through others, for the current one.
    pub(crate) fn begin(to: &Arc<Node>) -> Result<Option<Self>> {
        let Some(from) = current() else { return Ok(None) };
        if to.depth > MAX_DEPTH {
            let message = format!(
                "lookups of several keys are nested more than {MAX_DEPTH} deep; let the closure of an `Origin` not read \
                 through the chain that it is a tier of"
            );
            return Err(Error::new(ErrorKind::Cycle, message));
        }
        let mut graph = graph();
        if let Some(cycle) = path(&graph.waits, to, &from) {
            drop(graph);
            return Err(cycle_error(&from, &cycle));
        }
        let mut passes = from.lent().passes.clone();
        if from.is_admitted.load(Ordering::Acquire) {
            passes.push(from.chain);
        }
        pass_on(&mut graph, to, passes);
        graph.waits.entry(from.id).or_default().push(Arc::clone(to));
        Ok(Some(Self { from: from.id, to: to.id }))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let waits = &mut graph().waits;
        let Some(targets) = waits.get_mut(&self.from) else { return };
        if let Some(at) = targets.iter().position(|target| target.id == self.to) {
            targets.swap_remove(at);
        }
        if targets.is_empty() {
            waits.remove(&self.from);
        }
    }
}

/// The flights on a path of waits between these two, both included.
fn path(waits: &Waits, start: &Arc<Node>, end: &Node) -> Option<Vec<Arc<Node>>> {
    let mut reached_from: HashMap<u64, Option<Arc<Node>>> = HashMap::new();
    let mut rest = vec![(Arc::clone(start), None)];
    while let Some((node, before)) = rest.pop() {
        if node.id == end.id {
            let mut path = vec![node];
            let mut before: Option<Arc<Node>> = before;
            while let Some(node) = before {
                before = reached_from.get(&node.id).cloned().flatten();
                path.push(node);
            }
            path.reverse();
            return Some(path);
        }
        // Most flights wait for nothing.
        let Some(targets) = waits.get(&node.id) else { continue };
        if reached_from.contains_key(&node.id) {
            continue;
        }
        rest.extend(targets.iter().map(|target| (Arc::clone(target), Some(Arc::clone(&node)))));
        reached_from.insert(node.id, before);
    }
    None
}

/// The error for the flight `from`, which would wait for the flights of this path, the last of
/// which it is itself.
fn cycle_error(from: &Node, path: &[Arc<Node>]) -> Error {
    const SHOWN: usize = 8;
    let mut nodes: Vec<&Node> = vec![from];
    for node in path.iter().filter(|node| node.key.is_some()) {
        // A load and its lookup are one step for the reader.
        let is_same = nodes.last().is_some_and(|last| last.chain == node.chain && last.key == node.key);
        if !is_same {
            nodes.push(node);
        }
    }
    nodes.retain(|node| node.key.is_some());
    if let [only] = nodes[..] {
        nodes.push(only);
    }
    let mut keys: Vec<String> = nodes.iter().filter_map(|node| node.key.as_ref()).map(shown).collect();
    if keys.len() > SHOWN {
        let left_out = format!("({} more)", keys.len() - SHOWN);
        keys.splice(SHOWN / 2..keys.len() - SHOWN / 2, [left_out]);
    }
    let message = format!(
        "loads wait for each other in a cycle: {}; let no loader read a key whose loader reads, directly or through \
         others, its own key",
        keys.join(" -> ")
    );
    Error::new(ErrorKind::Cycle, message)
}

/// The key in quotes, without control characters and not too long.
fn shown(key: &Key) -> String {
    const LONGEST: usize = 64;
    let bytes = key.as_bytes();
    let cut = if bytes.len() > LONGEST { "..." } else { "" };
    format!("\"{}{cut}\"", bytes[..bytes.len().min(LONGEST)].escape_ascii())
}
