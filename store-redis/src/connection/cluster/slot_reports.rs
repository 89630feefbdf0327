//! What each primary says of its own slots.

use std::sync::Mutex;

use cache_core::{Error, ErrorKind, Result, backend::lock};
use redis::Value;

use super::slots::SLOTS;
use crate::connection::{
    error,
    redirection::Address,
    reply::{check, info_field, text},
};

/// What a primary says of itself in its reply to CLUSTER NODES.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlotReport {
    id: String,
    /// The configuration epoch. It changes when the node takes over slots by a failover, and with the
    /// first of a series of slots that it is given.
    epoch: u64,
    /// The first and the last of each range of slots that it holds.
    slots: Vec<(u16, u16)>,
    /// The ids of the nodes to which some of them are on their way.
    receivers: Vec<String>,
    /// The ids of the other nodes that hold slots, as far as this one knows.
    holders: Vec<String>,
    /// `false` if the node cannot reach the majority.
    is_ok: bool,
}

impl SlotReport {
    /// Parses the replies to CLUSTER INFO and CLUSTER NODES.
    pub(crate) fn parse(info: Value, nodes: Value) -> Result<Self> {
        let is_ok = info_field(&check(info)?, "cluster_state:").is_some_and(|state| state == "ok");
        let nodes = text(&check(nodes)?).ok_or_else(error::unexpected)?;
        let (own, others): (Vec<_>, Vec<_>) = nodes.lines().map(Line::parse).partition(|line| line.has("myself"));
        let own = own.first().ok_or_else(error::unexpected)?;
        let epoch = own.epoch.parse().map_err(|_| error::unexpected())?;
        // `[77->-<id>]` is on its way to a node, `[77-<-<id>]` comes from one.
        let open = own.slots.iter().filter_map(|part| part.strip_prefix('[')?.split_once("->-"));
        let receivers = open.map(|(_, id)| id.trim_end_matches(']').to_owned()).collect();
        let holders = others.iter().filter(|line| !line.slots.is_empty()).map(|line| line.id.to_owned()).collect();
        Ok(Self { id: own.id.to_owned(), epoch, slots: own.ranges()?, receivers, holders, is_ok })
    }

    /// Returns `true` if the node knows no other holder of slots than these.
    pub(super) fn knows_no_holder_but(&self, nodes: &[&Self]) -> bool {
        self.holders.iter().all(|id| nodes.iter().any(|node| node.id == *id))
    }

    /// Returns `true` if none of the slots is on its way to another node.
    pub(super) fn is_stable(&self) -> bool {
        self.receivers.is_empty()
    }
}

/// A line of CLUSTER NODES.
#[derive(Default)]
struct Line<'a> {
    id: &'a str,
    address: &'a str,
    flags: &'a str,
    epoch: &'a str,
    slots: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (id, address, flags) = (next(), next(), next());
        let [_primary, _ping, _pong, epoch, _link] = [(); 5].map(|()| next());
        Self { id, address, flags, epoch, slots: words.filter(|word| !word.is_empty()).collect() }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.split(',').any(|own| own == flag)
    }

    /// Returns the slots, without those that are on their way.
    fn ranges(&self) -> Result<Vec<(u16, u16)>> {
        let parts = self.slots.iter().filter(|part| !part.starts_with('['));
        let range = |part: &&str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let slot = |text: &str| text.parse().ok().filter(|slot| *slot < SLOTS);
            slot(first).zip(slot(last)).filter(|(first, last)| first <= last).ok_or_else(error::unexpected)
        };
        parts.map(range).collect()
    }

    /// Returns the address by its IP and, if it has one, that by the name of the host:
    /// `ip:port@bus-port,name`.
    fn addresses(&self) -> Option<(Address, Option<Address>)> {
        let (place, names) = self.address.split_once('@')?;
        let (ip, port) = place.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let at = |host: &str| Address { host: host.to_owned(), port };
        let name = names.split(',').nth(1).filter(|name| !name.is_empty() && !name.contains('='));
        Some((at(ip), name.map(at)))
    }
}

/// Returns the addresses of the primaries without slots in a reply to CLUSTER NODES.
///
/// CLUSTER SLOTS names nodes by their IP or by their host, as the cluster is configured, and does not
/// name these. `is_known` tells which addresses it has named.
pub(super) fn idle_primaries(nodes: &str, is_known: impl Fn(&Address) -> bool) -> Vec<Address> {
    let lines: Vec<Line<'_>> = nodes.lines().map(Line::parse).collect();
    let by_name = lines.iter().filter_map(|line| line.addresses()?.1).any(|by_name| is_known(&by_name));
    let is_usable = |line: &&Line<'_>| {
        let is_gone = ["fail", "fail?", "handshake", "noaddr"].iter().any(|flag| line.has(flag));
        line.has("master") && line.slots.is_empty() && !is_gone
    };
    let addresses = lines.iter().filter(is_usable).filter_map(Line::addresses);
    addresses.map(|(by_ip, name)| name.filter(|_| by_name).unwrap_or(by_ip)).collect()
}

/// The reports of all primaries that an invalidation stream follows.
pub(crate) struct SlotReports(Mutex<Vec<Option<SlotReport>>>);

impl SlotReports {
    pub(crate) fn new(nodes: usize) -> Self {
        Self(Mutex::new(vec![None; nodes]))
    }

    /// Notes the report of a node. Returns `true` if it holds other slots than before.
    ///
    /// # Errors
    ///
    /// Returns an error if its configuration has changed: slots may have been with other nodes.
    pub(crate) fn note(&self, node: usize, report: SlotReport) -> Result<bool> {
        let mut reports = lock(&self.0);
        if reports[node].as_ref().is_some_and(|known| known.epoch != report.epoch || known.id != report.id) {
            return Err(Error::new(ErrorKind::Unavailable, "the slots of the Redis cluster have another owner"));
        }
        let has_changed = reports[node].as_ref().is_some_and(|known| known.slots != report.slots);
        reports[node] = Some(report);
        Ok(has_changed)
    }

    /// Checks that these nodes hold all slots, that each other holder would be known to one of them, and
    /// that no slot is on its way to another node.
    ///
    /// # Errors
    ///
    /// Returns an error that says what is missing.
    pub(crate) fn check(&self) -> Result<()> {
        let reports = lock(&self.0);
        let unavailable = |message: String| Err(Error::new(ErrorKind::Unavailable, message));
        let mut held = vec![false; usize::from(SLOTS)];
        let Some(reports) = reports.iter().map(Option::as_ref).collect::<Option<Vec<&SlotReport>>>() else {
            return unavailable("a node of the Redis cluster has not answered".into());
        };
        for report in &reports {
            if !report.is_ok {
                return unavailable("a primary of the Redis cluster cannot reach most of the others".into());
            }
            let is_followed = |id: &String| reports.iter().any(|other| other.id == *id);
            if !report.receivers.iter().all(is_followed) {
                return unavailable("slots of the Redis cluster are on their way to a new node".into());
            }
            if !report.knows_no_holder_but(&reports) {
                return unavailable("another node has taken over slots of the Redis cluster".into());
            }
            for (first, last) in &report.slots {
                held[usize::from(*first)..=usize::from(*last)].fill(true);
            }
        }
        match held.iter().position(|held| !held) {
            None => Ok(()),
            Some(slot) => unavailable(format!("no node of the Redis cluster that is followed holds slot {slot}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report of the first of these nodes, each with its id and its slots; the others are as the
    /// first knows them.
    fn report_of(state: &str, epoch: u64, nodes: &[(&str, &str)]) -> Result<SlotReport> {
        let line = |(at, (id, slots)): (usize, &(&str, &str))| {
            let myself = if at == 0 { "myself," } else { "" };
            format!("{id} 10.0.0.1:7000@17000,name {myself}master - 0 0 {epoch} connected {slots}\n")
        };
        let nodes: String = nodes.iter().enumerate().map(line).collect();
        let replica = "f00 10.0.0.9:7009@17009 slave abc 0 1 3 connected\n";
        SlotReport::parse(
            Value::BulkString(format!("cluster_state:{state}\r\n").into()),
            Value::BulkString(format!("{nodes}{replica}").into()),
        )
    }

    fn report(nodes: &[(&str, &str)]) -> SlotReport {
        report_of("ok", 5, nodes).unwrap()
    }

    #[test]
    fn a_node_reports_its_slots() {
        let own = report(&[("abc", "0-99 101 [77->-def] [500-<-f00]"), ("def", "102-16383"), ("idle", "")]);
        assert_eq!(own.slots, [(0, 99), (101, 101)]);
        assert_eq!((own.id.as_str(), own.epoch, own.receivers.as_slice()), ("abc", 5, &["def".to_owned()][..]));
        assert_eq!(own.holders, ["def"]);
        assert!(own.is_ok && !own.is_stable() && !report_of("fail", 5, &[("abc", "")]).unwrap().is_ok);
        for slots in ["5-4", "16384", "x"] {
            assert_eq!(report_of("ok", 5, &[("abc", slots)]).unwrap_err().kind(), ErrorKind::Backend, "{slots}");
        }
        let nobody =
            SlotReport::parse(Value::BulkString(vec![]), Value::BulkString(b"abc 1.1.1.1:1@2 master - 0".into()));
        assert_eq!(nobody.unwrap_err().kind(), ErrorKind::Backend);
    }

    #[test]
    fn the_nodes_must_hold_all_slots_and_know_no_other_holder() {
        let reports = SlotReports::new(2);
        let note = |node: usize, slots: &str, other: &str| {
            let ids = if node == 0 { ["a", "b"] } else { ["b", "a"] };
            reports.note(node, report(&[(ids[0], slots), (ids[1], other)])).unwrap()
        };
        let error = || reports.check().unwrap_err().to_string();
        assert!(!note(0, "0-8000", "8001-16383"));
        assert!(error().contains("has not answered"));
        note(1, "8001-16383", "0-8000");
        reports.check().unwrap();
        // A slot moves from one to the other.
        assert!(note(0, "0-7999", "8001-16383"));
        assert!(error().contains("slot 8000"));
        assert!(note(1, "8000-16383", "0-7999"));
        note(0, "0-7999 [7->-b]", "8000-16383");
        reports.check().unwrap();
        // And one to a node that is not followed.
        assert!(!note(1, "8000-16383 [9000->-c]", "0-7999"));
        assert!(error().contains("new node"));
        // Another node has taken over, and the old primary does not know.
        let other = report(&[("b", "8000-16383"), ("c", "0-7999")]);
        reports.note(1, other).unwrap();
        assert!(error().contains("has taken over"));
        reports.note(1, report_of("fail", 5, &[("b", "8000-16383"), ("a", "0-7999")]).unwrap()).unwrap();
        assert!(error().contains("cannot reach"));
    }

    #[test]
    fn another_epoch_is_another_owner() {
        let reports = SlotReports::new(1);
        reports.note(0, report(&[("a", "0-16383")])).unwrap();
        let next = report_of("ok", 6, &[("a", "0-16383")]).unwrap();
        assert_eq!(reports.note(0, next).unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn primaries_without_slots_are_found() {
        let nodes = "a 10.0.0.1:7000@17000,node-a.example myself,master - 0 0 5 connected 0-99\n\
            b 10.0.0.2:7000@17000,,shard-id=1 master - 0 0 5 connected\n\
            c 10.0.0.3:7000@17000,node-c.example,shard-id=1 master - 0 0 5 connected\n\
            d 10.0.0.4:7000@17000 master,fail? - 0 0 5 disconnected\n\
            e :0@0 master,noaddr - 0 0 5 disconnected\n\
            f 10.0.0.6:7000@17000 slave a 0 0 5 connected\n";
        let addresses = |known: &str| -> Vec<String> {
            let idle = idle_primaries(nodes, |address| address.to_string() == known);
            idle.iter().map(Address::to_string).collect()
        };
        assert_eq!(addresses("10.0.0.1:7000"), ["10.0.0.2:7000", "10.0.0.3:7000"]);
        assert_eq!(addresses("node-a.example:7000"), ["10.0.0.2:7000", "node-c.example:7000"]);
    }
}
