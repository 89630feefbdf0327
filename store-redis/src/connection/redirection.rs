//! Where a node of a cluster sends a command that it does not run.

use std::{error::Error as StdError, fmt};

use cache_core::{Error, Result};

/// The reply of a node that did not run a command. It is the source of the error of that command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Redirection {
    /// Another node holds the slot.
    Moved { slot: u16, to: Address },
    /// The slot is on its way to another node, which already has this key.
    Ask { slot: u16, to: Address },
    /// The slot is on its way, and the keys of the command are at both nodes. Or the node does not know
    /// the address of the other.
    Again,
}

/// The address of a node. The host is empty if it is that of the node that names it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Returns the address, with this host if it has none of its own.
    pub(crate) fn or_host(self, host: &str) -> Self {
        if self.host.is_empty() { Self { host: host.to_owned(), ..self } } else { self }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Redirection {
    /// Parses an error reply. Returns `None` if it is another error.
    pub(crate) fn parse(code: &str, details: &str) -> Option<Self> {
        let place = || {
            let mut words = details.split_ascii_whitespace();
            let slot = words.next()?.parse().ok()?;
            let (host, port) = words.next()?.rsplit_once(':')?;
            let to = Address { host: host.to_owned(), port: port.parse().ok()? };
            Some((slot, to))
        };
        let is_unknown = details.split_ascii_whitespace().nth(1).is_some_and(|to| to.starts_with("?:"));
        match code {
            "MOVED" | "ASK" if is_unknown => Some(Self::Again),
            "MOVED" => place().map(|(slot, to)| Self::Moved { slot, to }),
            "ASK" => place().map(|(slot, to)| Self::Ask { slot, to }),
            "TRYAGAIN" => Some(Self::Again),
            _ => None,
        }
    }

    /// Returns the redirection that a call has ended with.
    pub(crate) fn of<T>(result: &Result<T>) -> Option<&Self> {
        result.as_ref().err().and_then(Error::source_as)
    }
}

/// Writes the reply.
impl fmt::Display for Redirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { slot, to } => write!(f, "MOVED {slot} {to}"),
            Self::Ask { slot, to } => write!(f, "ASK {slot} {to}"),
            Self::Again => f.write_str("TRYAGAIN"),
        }
    }
}

impl StdError for Redirection {}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    #[test]
    fn redirections_are_parsed() {
        let moved = |to| Some(Redirection::Moved { slot: 3999, to });
        assert_eq!(Redirection::parse("MOVED", "3999 127.0.0.1:6381"), moved(address("127.0.0.1", 6381)));
        assert_eq!(Redirection::parse("MOVED", "3999 ::1:6381"), moved(address("::1", 6381)));
        assert_eq!(Redirection::parse("MOVED", "3999 :6381"), moved(address("", 6381)));
        let ask = Redirection::Ask { slot: 0, to: address("node-1.example", 7000) };
        assert_eq!(Redirection::parse("ASK", "0 node-1.example:7000"), Some(ask));
        assert_eq!(Redirection::parse("TRYAGAIN", "Multiple keys request during rehashing"), Some(Redirection::Again));
        for details in ["", "3999", "x 127.0.0.1:1", "1 127.0.0.1", "1 127.0.0.1:70000"] {
            assert_eq!(Redirection::parse("MOVED", details), None, "{details}");
        }
        assert_eq!(Redirection::parse("MOVED", "1 ?:6381"), Some(Redirection::Again));
        assert_eq!(Redirection::parse("ERR", "3999 127.0.0.1:6381"), None);
    }
}
