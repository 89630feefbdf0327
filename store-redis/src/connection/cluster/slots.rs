//! The slots of a cluster, and the nodes that hold them.

use cache_core::Result;
use crc16::{State, XMODEM};
use redis::Value;

use crate::connection::{
    error,
    redirection::Address,
    reply::{integer, text},
};

pub(crate) const SLOTS: u16 = 16384;

/// Returns the slot of a key, as Redis computes it. The driver computes it as well, but does not give
/// out the number.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    State::<XMODEM>::calculate(tag_of(key).unwrap_or(key)) % SLOTS
}

/// Returns what counts of a key with a hash tag: the bytes between the first `{` and the first `}` after
/// it, unless there are none.
fn tag_of(key: &[u8]) -> Option<&[u8]> {
    let start = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[start..].iter().position(|byte| *byte == b'}')?;
    (length > 0).then(|| &key[start..start + length])
}

/// Slots that one node holds, from the first to the last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) primary: Address,
    pub(super) replicas: Vec<Address>,
}

/// Parses the reply to CLUSTER SLOTS.
///
/// # Errors
///
/// Returns an error of kind `Backend` if the reply has another shape. A range whose primary has no
/// known address is left out.
pub(super) fn parse(reply: Value) -> Result<Vec<Range>> {
    let Value::Array(ranges) = reply else { return Err(error::unexpected()) };
    ranges.into_iter().filter_map(|range| parse_range(range).transpose()).collect()
}

fn parse_range(range: Value) -> Result<Option<Range>> {
    let Value::Array(parts) = range else { return Err(error::unexpected()) };
    let mut parts = parts.into_iter();
    let mut slot = || {
        let slot = integer(parts.next().unwrap_or(Value::Nil))?;
        u16::try_from(slot).ok().filter(|slot| *slot < SLOTS).ok_or_else(error::unexpected)
    };
    let (first, last) = (slot()?, slot()?);
    if first > last {
        return Err(error::unexpected());
    }
    let mut nodes = parts.map(|node| address(&node));
    let primary = nodes.next().ok_or_else(error::unexpected)??;
    let replicas = nodes.filter_map(|node| node.ok().flatten()).collect();
    Ok(primary.map(|primary| Range { first, last, primary, replicas }))
}

/// Returns the address of a node: a list that begins with its host and its port. The host is nil if it
/// is that of the node that answers, and `?` if it is unknown.
fn address(node: &Value) -> Result<Option<Address>> {
    let Value::Array(parts) = node else { return Err(error::unexpected()) };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return Err(error::unexpected()) };
    let port = u16::try_from(*port).map_err(|_| error::unexpected())?;
    let host = if *host == Value::Nil { String::new() } else { text(host).ok_or_else(error::unexpected)? };
    Ok((host != "?" && port != 0).then_some(Address { host, port }))
}

#[cfg(test)]
mod tests {
    use cache_core::ErrorKind;

    use super::*;

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".into()), Value::Array(vec![])])
    }

    fn host(host: &str) -> Value {
        Value::BulkString(host.into())
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(nodes).collect())
    }

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        // https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
        assert_eq!(slot_of(b"123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), slot_of(b"foo{}{bar}"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    }

    #[test]
    fn the_slots_are_parsed() {
        let reply = Value::Array(vec![
            range(0, 99, vec![node(host("10.0.0.1"), 7000), node(host("10.0.0.2"), 7001)]),
            range(100, 100, vec![node(Value::Nil, 7002)]),
            range(101, 16383, vec![node(host("?"), 7003)]),
        ]);
        let first =
            Range { first: 0, last: 99, primary: address("10.0.0.1", 7000), replicas: vec![address("10.0.0.2", 7001)] };
        let second = Range { first: 100, last: 100, primary: address("", 7002), replicas: vec![] };
        assert_eq!(parse(reply).unwrap(), [first, second]);
    }

    #[test]
    fn other_replies_are_errors() {
        for reply in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![range(0, 16384, vec![node(host("a"), 1)])]),
            Value::Array(vec![range(-1, 1, vec![node(host("a"), 1)])]),
            Value::Array(vec![range(100, 5, vec![node(host("a"), 1)])]),
            Value::Array(vec![range(0, 1, vec![])]),
            Value::Array(vec![range(0, 1, vec![node(host("a"), 70000)])]),
        ] {
            assert_eq!(parse(reply).unwrap_err().kind(), ErrorKind::Backend);
        }
    }
}
