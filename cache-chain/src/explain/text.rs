//! Explanations as text.

use std::{fmt, time::Duration};

use cache_core::{Ttl, backend::Content, codec};

use super::{Action, Decision, ExplainedTier, Explanation, Held, Trust};
use crate::stats::BreakerState;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for tier in &self.tiers {
            writeln!(f, "{tier}")?;
        }
        writeln!(f, "get: {}", self.get)?;
        write!(f, "get_or_load: {}", self.get_or_load)
    }
}

impl fmt::Display for ExplainedTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.held)?;
        if let Some(age) = self.age {
            write!(f, ", age {}", Rounded(age))?;
        }
        match (self.fresh_for, self.ttl) {
            (Some(Ttl::After(fresh)), ttl) if fresh.is_zero() => write!(f, ", stale{}", Expires(ttl))?,
            (Some(Ttl::After(fresh)), ttl) if ttl != self.fresh_for => {
                write!(f, ", fresh for {}{}", Rounded(fresh), Expires(ttl))?;
            }
            (_, ttl) => write!(f, "{}", Expires(ttl))?,
        }
        if let Some(stored) = &self.stored {
            write!(f, ", {} bytes", stored.size)?;
            if let Some(Ok(record)) = &stored.record
                && matches!(record.content, Content::Value | Content::Absence)
            {
                let codec = codec::name_of(record.codec).map_or_else(|| record.codec.to_string(), str::to_owned);
                write!(f, ", codec {codec}, schema {:08x}", record.schema)?;
            }
        }
        match self.trust {
            Trust::Trusted => {}
            Trust::Suspect { in_grace: false } => f.write_str(", suspect")?,
            Trust::Suspect { in_grace: true } => f.write_str(", suspect but in grace")?,
            Trust::AwaitsDelete => f.write_str(", to be deleted after a failed write")?,
        }
        match self.breaker {
            Some(BreakerState::Open) => f.write_str(", breaker open"),
            Some(BreakerState::HalfOpen) => f.write_str(", breaker half open"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Value => f.write_str("a value"),
            Self::Absence => f.write_str("an absence (a loader has found no value)"),
            Self::Marker(Content::Claim) => {
                f.write_str("the marker of a claim: a process is loading the value, or storing it")
            }
            Self::Marker(_) => f.write_str("the marker of a lease"),
            Self::Void => f.write_str("a record that has expired, or is of an earlier run of the server"),
            Self::Undecodable(error) => write!(f, "bytes that do not decode ({error})"),
            Self::Unknown(error) => write!(f, "unknown ({error})"),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Serve { tier } => write!(f, "returns what {tier} holds: {}", self.reason),
            Action::ServeStale { tier } => write!(f, "returns the stale value of {tier}: {}", self.reason),
            Action::Miss => write!(f, "returns nothing: {}", self.reason),
            Action::Repair { tier } => {
                write!(f, "deletes the key from {tier}, and returns nothing, or the error of that: {}", self.reason)
            }
            Action::Join => write!(f, "waits for a load: {}", self.reason),
            Action::Wait { tier } => write!(f, "waits for the load that is claimed in {tier}: {}", self.reason),
            Action::Load => write!(f, "calls the loader: {}", self.reason),
            Action::Fail(kind) => write!(f, "returns an error of kind {kind:?}: {}", self.reason),
        }
    }
}

/// The time until an entry expires, as the end of a list.
struct Expires(Option<Ttl>);

impl fmt::Display for Expires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(Ttl::Never) => f.write_str(", does not expire"),
            Some(Ttl::After(ttl)) => write!(f, ", expires in {}", Rounded(ttl)),
        }
    }
}

/// A time in whole milliseconds.
struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_millis(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)))
    }
}
