//! What a node knows of the cluster.

use std::ops::RangeInclusive;

use crate::redis_server::RedisServer;

/// What a node knows of each node, from `CLUSTER NODES`.
#[derive(Debug)]
pub(super) struct View(Vec<KnownNode>);

/// What a node knows of another one, or of itself.
#[derive(Debug)]
pub(super) struct KnownNode {
    pub(super) id: String,
    flags: Vec<String>,
    /// The primary of a replica.
    pub(super) primary: Option<String>,
    pub(super) epoch: u64,
    is_connected: bool,
    pub(super) slots: Vec<RangeInclusive<u16>>,
    /// The slots that come in from another node. A node knows only its own.
    importing: Vec<u16>,
}

impl View {
    /// Asks a node. Returns `None` if it does not run.
    pub(super) fn of(node: &RedisServer) -> Option<Self> {
        if !node.is_running() {
            return None;
        }
        let reply = node.request(&[b"CLUSTER", b"NODES"]).ok()?.into_bytes();
        String::from_utf8_lossy(&reply).lines().map(KnownNode::parse).collect::<Option<_>>().map(Self)
    }

    pub(super) fn nodes(&self) -> &[KnownNode] {
        &self.0
    }

    /// Returns what the node that was asked knows of itself.
    pub(super) fn into_own(self) -> Option<KnownNode> {
        self.0.into_iter().find(KnownNode::is_itself)
    }

    pub(super) fn find(&self, id: &str) -> Option<&KnownNode> {
        self.0.iter().find(|node| node.id == id)
    }
}

impl KnownNode {
    /// Reads a line, such as `<id> 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460 [77-<-<id>]`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let id = words.next()?.to_owned();
        let flags = words.nth(1)?.split(',').map(str::to_owned).collect();
        let primary = words.next().filter(|&id| id != "-").map(str::to_owned);
        let epoch = words.nth(2)?.parse().ok()?;
        let is_connected = words.next()? == "connected";
        let (moves, slots): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('['));
        let importing = moves.iter().filter_map(|word| word[1..].split_once("-<-")?.0.parse().ok()).collect();
        let range = |word: &str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some(first.parse().ok()?..=last.parse().ok()?)
        };
        let slots = slots.into_iter().map(range).collect::<Option<_>>()?;
        Some(Self { id, flags, primary, epoch, is_connected, slots, importing })
    }

    /// `true` for the node that was asked.
    pub(super) fn is_itself(&self) -> bool {
        self.has_flag("myself")
    }

    pub(super) fn is_primary(&self) -> bool {
        self.has_flag("master")
    }

    /// Whether the node that was asked can reach it.
    pub(super) fn is_reached(&self) -> bool {
        self.is_connected && !["fail", "fail?", "handshake", "noaddr"].iter().any(|flag| self.has_flag(flag))
    }

    pub(super) fn imports(&self, slot: u16) -> bool {
        self.importing.contains(&slot)
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }
}
