//! What a read would do with what the tiers hold. Follows [`Reader`] and [`Loader`].

use cache_core::{Entry, Key, backend::Content};

use super::{Action, Decision, Finding, Held};
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
    // Without a tier that fails, "not found" would be a guess.
    let failed = findings.iter().find(|finding| finding.answer.is_err() && !finding.is_repaired);
    if let Some(error) = failed.and_then(|finding| finding.answer.as_ref().err()) {
        return decision(Action::Fail(error.kind()), error.to_string());
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
    let reason = match failed {
        Some(error) => format!("no other tier holds a value that may be served, and {error}"),
        None => "no tier holds a value that may be served".to_owned(),
    };
    let is_claimed = |finding: &&Finding<V>| {
        finding.answer.is_ok() && matches!(finding.explained.held, Held::Marker(Content::Claim))
    };
    match findings.iter().find(is_claimed) {
        Some(claimed) if loader.waits_for_peers() => {
            let tier = claimed.explained.name.clone();
            decision(Action::Wait { tier }, format!("{reason}, and another process is loading it"))
        }
        _ => decision(Action::Load, reason),
    }
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
    let at = in_grace(reader, findings, key)?;
    let entry = findings[at].held.as_ref().filter(|entry| is_fresh(entry))?;
    Some(serve(&findings[at], entry, "is served in grace"))
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
