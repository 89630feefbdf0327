//! What a read would do with what the tiers hold. Follows [`Reader`] and [`Loader`].

use cache_core::{Entry, Key};

use super::{Action, Decision, Finding, Trust};
use crate::{
    load::{Loader, ServeStale},
    read::Reader,
};

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
    if let Some(error) = findings.iter().find_map(|finding| finding.answer.as_ref().err()) {
        // Without that tier, "not found" would be a guess.
        return decision(Action::Fail(error.kind()), error.to_string());
    }
    match stale(reader, findings) {
        Some(at) => {
            let tier = &findings[at].explained.name;
            let reason = format!("the value in {tier} is stale, and `get` returns no stale value");
            decision(Action::Miss, reason)
        }
        None => decision(Action::Miss, "no tier holds a value that may be served"),
    }
}

/// Decides a `get_or_load` without options.
pub(super) fn get_or_load<V: Clone + Send + Sync + 'static>(
    reader: &Reader<V>,
    loader: &Loader<V>,
    findings: &[Finding<V>],
    key: &Key,
) -> Decision {
    let stale = stale(reader, findings);
    let served = hit(reader, findings, key);
    // A stale value in memory is found before a fresh one in another tier.
    let is_found_first = reader.tiers[0].is_local() && stale.is_some_and(|at| at == 0);
    let (Some(stale), true) = (stale, is_found_first || served.is_none()) else {
        return served.unwrap_or_else(|| load(findings));
    };
    let tier = findings[stale].explained.name.clone();
    let reason = format!("the value in {tier} is stale");
    let waits = match loader.serves_stale(key) {
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
fn load<V>(findings: &[Finding<V>]) -> Decision {
    let failed = findings.iter().find_map(|finding| finding.answer.as_ref().err());
    let reason = match failed {
        Some(error) => format!("no other tier holds a value that may be served, and {error}"),
        None => "no tier holds a value that may be served".to_owned(),
    };
    decision(Action::Load, reason)
}

/// Returns the decision for a fresh entry, if there is one.
fn hit<V: Clone + Send + Sync + 'static>(reader: &Reader<V>, findings: &[Finding<V>], key: &Key) -> Option<Decision> {
    let is_fresh = |entry: &Entry<V>| !entry.is_stale(reader.clock.now()) && !reader.has_expired(entry);
    let serve = |finding: &Finding<V>, entry: &Entry<V>, reason: &str| {
        let what = if entry.is_absent() { "it holds that there is no value, which" } else { "its value" };
        decision(Action::Serve { tier: finding.explained.name.clone() }, format!("{what} {reason}"))
    };
    for finding in findings {
        if let Ok(Some(entry)) = &finding.answer
            && is_fresh(entry)
        {
            return Some(serve(finding, entry, "is fresh"));
        }
    }
    // Only if the shared tier has failed, a suspect entry may be served.
    let first = reader.first()?;
    findings[first.shared].answer.as_ref().err()?;
    findings[..first.shared].iter().find_map(|finding| {
        let entry = finding.held.as_ref().filter(|entry| first.is_in_grace(key, entry) && is_fresh(entry))?;
        (finding.explained.trust != Trust::Trusted).then(|| serve(finding, entry, "is served in grace"))
    })
}

/// Returns the place of the first tier whose value is stale and may be served by a load.
fn stale<V: Clone + Send + Sync + 'static>(reader: &Reader<V>, findings: &[Finding<V>]) -> Option<usize> {
    let is_stale =
        |entry: &Entry<V>| entry.is_stale(reader.clock.now()) && !entry.is_absent() && !reader.has_expired(entry);
    findings.iter().position(|finding| matches!(&finding.answer, Ok(Some(entry)) if is_stale(entry)))
}
