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
pub(crate) struct Claim {
    id: String,
    /// The configuration epoch. It changes when the node takes over slots by a failover, and with the
    /// first of a series of slots that it is given.
    epoch: u64,
    /// The first and the last of each range of slots that it holds.
    slots: Vec<(u16, u16)>,
    /// The ids of the nodes to which some of them are on their way.
    receivers: Vec<String>,
    /// `false` if the node cannot reach the majority.
    is_ok: bool,
}

impl Claim {
    /// Parses the replies to CLUSTER INFO and CLUSTER NODES.
    pub(crate) fn parse(info: Value, nodes: Value) -> Result<Self> {
        let is_ok = info_field(&check(info)?, "cluster_state:").is_some_and(|state| state == "ok");
        let nodes = text(&check(nodes)?).ok_or_else(error::unexpected)?;
        let own = nodes.lines().map(Line::parse).find(|line| line.has("myself")).ok_or_else(error::unexpected)?;
        let epoch = own.epoch.parse().map_err(|_| error::unexpected())?;
        let (mut slots, mut receivers) = (Vec::new(), Vec::new());
        for part in own.slots {
            if let Some(open) = part.strip_prefix('[') {
                // `[77->-<id>]` is on its way to a node, `[77-<-<id>]` comes from one.
                receivers.extend(open.split_once("->-").map(|(_, id)| id.trim_end_matches(']').to_owned()));
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let slot = |text: &str| text.parse().ok().filter(|slot| *slot < SLOTS).ok_or_else(error::unexpected);
            slots.push((slot(first)?, slot(last)?));
        }
        Ok(Self { id: own.id.to_owned(), epoch, slots, receivers, is_ok })
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

    /// Returns the address: `ip:port@bus-port`, then the name of the host, if it has one.
    fn address(&self) -> Option<Address> {
        let (place, names) = self.address.split_once('@')?;
        let (ip, port) = place.rsplit_once(':')?;
        let name = names.split(',').nth(1).filter(|name| !name.is_empty() && !name.contains('='));
        Some(Address { host: name.unwrap_or(ip).to_owned(), port: port.parse().ok().filter(|port| *port != 0)? })
    }
}

/// Returns the addresses of the primaries without slots in a reply to CLUSTER NODES.
pub(super) fn idle_primaries(nodes: &str) -> Vec<Address> {
    let is_usable = |line: &Line<'_>| {
        line.has("master")
            && line.slots.is_empty()
            && !["fail", "handshake", "noaddr"].iter().any(|flag| line.has(flag))
    };
    nodes.lines().map(Line::parse).filter(is_usable).filter_map(|line| line.address()).collect()
}

/// The claims of all primaries that an invalidation stream follows.
pub(crate) struct Claims(Mutex<Vec<Option<Claim>>>);

impl Claims {
    pub(crate) fn new(nodes: usize) -> Self {
        Self(Mutex::new(vec![None; nodes]))
    }

    /// Notes the claim of a node.
    ///
    /// # Errors
    ///
    /// Returns an error if its configuration has changed: slots may have been with other nodes.
    pub(crate) fn note(&self, node: usize, claim: Claim) -> Result<()> {
        let mut claims = lock(&self.0);
        if claims[node].as_ref().is_some_and(|known| known.epoch != claim.epoch || known.id != claim.id) {
            return Err(Error::new(ErrorKind::Unavailable, "the slots of the Redis cluster have another owner"));
        }
        claims[node] = Some(claim);
        Ok(())
    }

    /// Checks that these nodes hold all slots, and that none is on its way to another node.
    ///
    /// # Errors
    ///
    /// Returns an error that says what is missing.
    pub(crate) fn check(&self) -> Result<()> {
        let claims = lock(&self.0);
        let unavailable = |message: String| Err(Error::new(ErrorKind::Unavailable, message));
        let mut held = vec![false; usize::from(SLOTS)];
        for claim in claims.iter() {
            let Some(claim) = claim else { return unavailable("a node of the Redis cluster has not answered".into()) };
            if !claim.is_ok {
                return unavailable("a primary of the Redis cluster cannot reach most of the others".into());
            }
            let is_followed = |id: &String| claims.iter().flatten().any(|other| other.id == *id);
            if !claim.receivers.iter().all(is_followed) {
                return unavailable("slots of the Redis cluster are on their way to a new node".into());
            }
            for (first, last) in &claim.slots {
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

    fn parse(state: &str, own: &str) -> Claim {
        let nodes = format!("f00 10.0.0.9:7009@17009 slave abc 0 1 3 connected\n{own}\n");
        Claim::parse(
            Value::BulkString(format!("cluster_state:{state}\r\ncluster_my_epoch:7\r\n").into()),
            Value::BulkString(nodes.into()),
        )
        .unwrap()
    }

    fn claim(id: &str, slots: &str) -> Claim {
        parse("ok", &format!("{id} 10.0.0.1:7000@17000,name myself,master - 0 0 5 connected {slots}"))
    }

    #[test]
    fn a_node_claims_its_slots() {
        let own = claim("abc", "0-99 101 [77->-def] [500-<-f00]");
        assert_eq!(own.slots, [(0, 99), (101, 101)]);
        assert_eq!((own.id.as_str(), own.epoch, own.receivers.as_slice()), ("abc", 5, &["def".to_owned()][..]));
        assert!(own.is_ok && !parse("fail", "abc 10.0.0.1:1@2 myself,master - 0 0 5 connected").is_ok);
        let nobody = Claim::parse(Value::BulkString(vec![]), Value::BulkString(b"abc 1.1.1.1:1@2 master - 0".into()));
        assert_eq!(nobody.unwrap_err().kind(), ErrorKind::Backend);
    }

    #[test]
    fn the_nodes_must_hold_all_slots() {
        let claims = Claims::new(2);
        claims.note(0, claim("a", "0-8000")).unwrap();
        assert!(claims.check().is_err());
        claims.note(1, claim("b", "8001-16383")).unwrap();
        claims.check().unwrap();
        // A slot moves from one to the other.
        claims.note(0, claim("a", "0-7999 [8000->-b]")).unwrap();
        assert!(claims.check().unwrap_err().to_string().contains("slot 8000"));
        claims.note(1, claim("b", "8000-16383")).unwrap();
        claims.check().unwrap();
        // And one to a node that is not followed.
        claims.note(1, claim("b", "8000-16383 [9000->-c]")).unwrap();
        assert!(claims.check().unwrap_err().to_string().contains("new node"));
        claims.note(1, parse("fail", "b 10.0.0.1:7000@17000 myself,master - 0 0 5 connected 8000-16383")).unwrap();
        assert!(claims.check().unwrap_err().to_string().contains("cannot reach"));
    }

    #[test]
    fn another_epoch_is_another_owner() {
        let claims = Claims::new(1);
        claims.note(0, claim("a", "0-16383")).unwrap();
        let next = parse("ok", "a 10.0.0.1:7000@17000 myself,master - 0 0 6 connected 0-16383");
        assert_eq!(claims.note(0, next).unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn primaries_without_slots_are_found() {
        let nodes = "a 10.0.0.1:7000@17000 myself,master - 0 0 5 connected 0-99\n\
            b 10.0.0.2:7000@17000,,shard-id=1 master - 0 0 5 connected\n\
            c 10.0.0.3:7000@17000,node-c.example,shard-id=1 master - 0 0 5 connected\n\
            d 10.0.0.4:7000@17000 master,fail - 0 0 5 disconnected\n\
            e :0@0 master,noaddr - 0 0 5 disconnected\n\
            f 10.0.0.6:7000@17000 slave a 0 0 5 connected\n";
        let addresses: Vec<String> = idle_primaries(nodes).iter().map(Address::to_string).collect();
        assert_eq!(addresses, ["10.0.0.2:7000", "node-c.example:7000"]);
    }
}
