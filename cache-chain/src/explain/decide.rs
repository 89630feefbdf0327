//! What a read would do with what the tiers hold. Follows [`Reader`] and [`Loader`].

use cache_core::{Entry, Key, backend::Content};

use super::{Action, Decision, Finding, Held, Trust};
use crate::{
    load::{Loader, ServeStale},
    read::Reader,
};

const NOTHING: &str = "no tier holds a value that may be served";

fn decision(action: Action, reason: impl Into<String>) -> Decision {
    Decision { action, reason: reason.into() }
}

/// Decides a `get`.
pub(super) fn get<V: Clone + Send + Sync + 'static>(
    reader: &Reader<V>,
    findings: &[Finding<V>],
    key: &Key,
) -> Decision {
    if let Some(served) = hit(reader, findings, key) {
        return served;
    }
    // While a tier fails, "not found" would be a guess.
    let failure = |finding: &Finding<V>| finding.answer.as_ref().err().filter(|_| !finding.is_repaired).cloned();
    if let Some(error) = findings.iter().find_map(failure) {
        return decision(Action::Fail(error.kind()), format!("{error:#}{}", notes(findings)));
    }
    if let Some(Finding { explained, answer: Err(error), .. }) = findings.iter().find(|finding| finding.is_repaired) {
        return decision(Action::Repair { tier: explained.name.clone() }, error.to_string());
    }
    match stale(reader, findings, key) {
        Some(at) => {
            let tier = &findings[at].explained.name;
            let reason = format!("the value in {tier} is stale, and `get` returns no stale value");
            decision(Action::Miss, reason)
        }
        None => decision(Action::Miss, format!("{NOTHING}{}", notes(findings))),
    }
}

/// Decides a `get_or_load` without options.
pub(super) fn get_or_load<V: Clone + Send + Sync + 'static>(
    reader: &Reader<V>,
    loader: &Loader<V>,
    findings: &[Finding<V>],
    key: &Key,
) -> Decision {
    let stale = stale(reader, findings, key);
    let served = hit(reader, findings, key);
    // A stale value in memory that may be served is found before a fresh one in another tier.
    let is_found_first =
        reader.tiers[0].is_local() && stale.is_some_and(|at| at == 0) && matches!(findings[0].answer, Ok(Some(_)));
    let (Some(stale), true) = (stale, is_found_first || served.is_none()) else {
        return served.unwrap_or_else(|| load(loader, findings, key));
    };
    let tier = findings[stale].explained.name.clone();
    let reason = format!("the value in {tier} is stale");
    let waits = match loader.serves_stale(key) {
        Some(ServeStale::After(_) | ServeStale::IfLoadFails) if loader.is_loading(key) => {
            return decision(Action::Join, format!("{reason}, and a load of the key goes on in this process"));
        }
        None => {
            return decision(Action::ServeStale { tier }, format!("{reason}, and a load has failed a moment ago"));
        }
        Some(ServeStale::AtOnce) => {
            return decision(Action::ServeStale { tier }, format!("{reason}; a new one is loaded in the background"));
        }
        Some(ServeStale::After(time)) => format!(" or takes longer than {time:?}"),
        Some(ServeStale::IfLoadFails) => String::new(),
    };
    // The load asks the other tiers first.
    served.unwrap_or_else(|| decision(Action::Load, format!("{reason}; it is served if the load fails{waits}")))
}

/// Returns the decision to load what no tier has.
fn load<V: Clone + Send + Sync + 'static>(loader: &Loader<V>, findings: &[Finding<V>], key: &Key) -> Decision {
    if loader.is_loading(key) {
        return decision(Action::Join, "a load of the key goes on in this process");
    }
    let failed = findings.iter().find_map(|finding| finding.answer.as_ref().err());
    let failure = failed.map_or_else(String::new, |error| format!(", and {error:#}"));
    let reason = format!("{NOTHING}{failure}{}", notes(findings));
    let is_claimed = |finding: &&Finding<V>| {
        finding.answer.is_ok() && matches!(finding.explained.held, Held::Marker(Content::Claim))
    };
    match findings.iter().find(is_claimed) {
        Some(claimed) if loader.waits_for_peers() => {
            let tier = claimed.explained.name.clone();
            decision(
                Action::Wait { tier },
                format!("{reason}; another process is loading it, or storing what it has loaded"),
            )
        }
        _ => decision(Action::Load, reason),
    }
}

/// Returns the decision for a fresh entry, if there is one.
fn hit<V: Clone + Send + Sync + 'static>(reader: &Reader<V>, findings: &[Finding<V>], key: &Key) -> Option<Decision> {
    let is_fresh = |entry: &Entry<V>| !entry.is_stale(reader.clock.now()) && !reader.has_expired(entry);
    let serve = |at: usize, entry: &Entry<V>, reason: &str| {
        let what = if entry.is_absent() { "the absence that it holds" } else { "its value" };
        let notes = notes(&findings[..at]);
        decision(Action::Serve { tier: findings[at].explained.name.clone() }, format!("{what} {reason}{notes}"))
    };
    for (at, finding) in findings.iter().enumerate() {
        if let Ok(Some(entry)) = &finding.answer
            && is_fresh(entry)
        {
            return Some(serve(at, entry, "is fresh"));
        }
    }
    let at = in_grace(reader, findings, key)?;
    let entry = findings[at].held.as_ref().filter(|entry| is_fresh(entry))?;
    Some(serve(at, entry, "is served in grace, because the shared tier fails"))
}

/// Tells which tiers hold something that is not served, and why not.
fn notes<V>(findings: &[Finding<V>]) -> String {
    let note = |finding: &Finding<V>| {
        let why = match (&finding.explained.held, finding.explained.trust) {
            (Held::Value | Held::Absence, Trust::Suspect { .. }) => "what it holds is suspect",
            (Held::Undecodable(_), _) => "what it holds does not decode",
            (Held::Void, _) => "its record is no longer valid",
            _ => return None,
        };
        Some(format!("; {}: {why}", finding.explained.name))
    };
    findings.iter().filter_map(note).collect()
}

/// Returns the place of the tier whose suspect entry is served while the shared tier fails.
fn in_grace<V: Clone + Send + Sync + 'static>(reader: &Reader<V>, findings: &[Finding<V>], key: &Key) -> Option<usize> {
    let first = reader.first()?;
    findings[first.shared].answer.as_ref().err()?;
    let at = findings[..first.shared].iter().position(|finding| finding.held.is_some())?;
    first.is_in_grace(key, findings[at].held.as_ref()?).then_some(at)
}

/// Returns the place of the first tier whose value is stale and may be served by a load.
fn stale<V: Clone + Send + Sync + 'static>(reader: &Reader<V>, findings: &[Finding<V>], key: &Key) -> Option<usize> {
    let is_stale =
        |entry: &Entry<V>| entry.is_stale(reader.clock.now()) && !entry.is_absent() && !reader.has_expired(entry);
    let answered = findings.iter().position(|finding| matches!(&finding.answer, Ok(Some(entry)) if is_stale(entry)));
    answered.or_else(|| in_grace(reader, findings, key).filter(|&at| findings[at].held.as_ref().is_some_and(is_stale)))
}
