//! The report on a namespace.

use std::{collections::BTreeMap, fmt::Display};

use cache_core::codec;
use serde_json::{Value, json};

use super::{key::codec_name, show};
use crate::{
    arguments::NamespaceArguments,
    examine::State,
    scan::Outcome,
    source::Run,
    summary::{BUCKETS, Entry, Marker, Summary, Written},
};

/// The number of markers that are shown, the oldest first.
const MARKERS: usize = 20;

/// What the keys are, in the order of the report.
const CONTENTS: [&str; 8] = ["value", "absence", "lease", "claim", "plain", "undecodable", "foreign", "counter"];

/// The runs of the server in which records were written, see [`Binding`](crate::examine::Binding).
const RUNS: [&str; 4] = ["current", "other", "unbound", "unknown"];

/// The figures of a namespace.
pub(crate) struct Namespace<'a> {
    pub(crate) source: &'static str,
    pub(crate) arguments: &'a NamespaceArguments,
    pub(crate) run: Run,
    pub(crate) outcome: &'a Outcome,
}

impl Namespace<'_> {
    /// Returns the report as aligned text.
    pub(crate) fn text(&self) -> String {
        let summary = &self.outcome.summary;
        let mut rows = vec![row("backend", self.source), row("namespace", &self.arguments.place.namespace)];
        if let Some(pattern) = &self.arguments.pattern {
            rows.push(row("match", show::printable(pattern)));
        }
        rows.push(row("keys", self.keys()));
        rows.push(row("", self.effort()));
        counts(&mut rows, "content", CONTENTS.iter().map(|name| (*name, of(&summary.contents, name))));
        counts(
            &mut rows,
            "state",
            State::ALL.iter().map(|state| (state_name(*state), of(&summary.states, state.name()))),
        );
        if let Some(of_other_runs) = summary.of_other_runs() {
            rows.push(row("other runs", format!("{of_other_runs} records, misses for readers")));
        } else if self.run != Run::Irrelevant {
            rows.push(row("other runs", "unknown: INFO is not permitted, or the server is a replica"));
        }
        if let Some(sizes) = summary.sizes() {
            let sizes = [
                ("min", sizes.min),
                ("median", sizes.median),
                ("p99", sizes.p99),
                ("max", sizes.max),
                ("total", sizes.total),
            ];
            blocks(&mut rows, "stored bytes", sizes.map(|(name, size)| (name, show::bytes(size))));
        }
        let ttls = BUCKETS.iter().zip(summary.ttls).map(|((_, name), keys)| (*name, keys));
        counts(&mut rows, "ttl", ttls.chain([("does not expire", summary.without_ttl)]));
        counts(&mut rows, "codec", summary.codecs.iter().map(|(id, keys)| (codec_name(*id), *keys)));
        counts(&mut rows, "schema", summary.schemas.iter().map(|(tag, keys)| (format!("{tag:08x}"), *keys)));
        counts(
            &mut rows,
            "format",
            summary.versions.iter().map(|(version, keys)| (format!("version {version}"), *keys)),
        );
        for (label, written) in [("oldest", &summary.oldest), ("newest", &summary.newest)] {
            if let Some(Written { key, at, age_millis }) = written {
                let age = show::duration(*age_millis);
                rows.push(row(label, format!("{} ({age} ago): {}", show::time(*at), show::key(key))));
            }
        }
        let mut text = show::table(&rows);
        text.push_str(&self.markers());
        text.push_str(&self.list());
        text
    }

    /// Returns the number of keys, and whether it is all of them.
    fn keys(&self) -> String {
        let keys = self.outcome.summary.keys();
        match self.outcome.stopped {
            None => format!("{keys}, all"),
            Some(stopped) => {
                format!("{keys}, a sample: stopped by {}, and there may be more keys", stopped.option())
            }
        }
    }

    fn effort(&self) -> String {
        let Outcome { visited, read, gone, took, .. } = self.outcome;
        let took = show::duration(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let gone = if *gone == 0 { String::new() } else { format!("; {gone} were gone before they were read") };
        format!("about {visited} keys looked at, {} read, in {took}{gone}", show::bytes(*read))
    }

    fn sorted_markers(&self) -> Vec<&Marker> {
        let mut markers: Vec<&Marker> = self.outcome.summary.markers.iter().collect();
        markers.sort_by_key(|marker| std::cmp::Reverse(marker.age_millis));
        markers
    }

    fn markers(&self) -> String {
        let markers = self.sorted_markers();
        if markers.is_empty() {
            return String::new();
        }
        let mut rows = vec![cells(["marker", "state", "age", "ttl", "key"])];
        for marker in markers.iter().take(MARKERS) {
            rows.push(vec![
                marker.name.to_owned(),
                state_name(marker.state).to_owned(),
                show::duration(marker.age_millis),
                show::ttl(marker.ttl_millis),
                show::key(&marker.key),
            ]);
        }
        let more = markers.len().saturating_sub(MARKERS);
        let more = if more == 0 { String::new() } else { format!("… and {more} younger ones\n") };
        format!("\n{}{more}", show::table(&rows))
    }

    fn list(&self) -> String {
        if !self.arguments.list {
            return String::new();
        }
        let mut rows = vec![cells(["content", "state", "bytes", "ttl", "key"])];
        for entry in &self.outcome.summary.entries {
            rows.push(vec![
                entry.name.to_owned(),
                state_name(entry.state).to_owned(),
                entry.size.to_string(),
                show::ttl(entry.ttl_millis),
                show::key(&entry.key),
            ]);
        }
        format!("\n{}", show::table(&rows))
    }

    /// Returns the report as JSON.
    pub(crate) fn json(&self) -> String {
        let Outcome { summary, stopped, visited, read, gone, took } = self.outcome;
        let mut report = json!({
            "backend": self.source,
            "namespace": self.arguments.place.namespace,
            "match": self.arguments.pattern,
            "scan": {
                "is_complete": stopped.is_none(),
                "stopped_by": stopped.map(|stopped| stopped.option().trim_start_matches('-')),
                "visited": visited,
                "read_bytes": read,
                "gone": gone,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            },
            "keys": summary.keys(),
            "contents": all_of(&CONTENTS, &summary.contents),
            "states": all_of(&State::ALL.map(State::name), &summary.states),
            "runs": (self.run != Run::Irrelevant).then(|| all_of(&RUNS, &summary.bindings)),
            "stored_bytes": summary.sizes().map(|sizes| json!({
                "min": sizes.min,
                "median": sizes.median,
                "p99": sizes.p99,
                "max": sizes.max,
                "total": sizes.total,
            })),
            "ttl": self.ttl_json(),
            "codecs": summary.codecs.iter().map(|(id, keys)| {
                json!({"id": id, "name": codec::name_of(*id), "keys": keys})
            }).collect::<Value>(),
            "schemas": summary.schemas.iter().map(|(tag, keys)| {
                json!({"tag": format!("{tag:08x}"), "keys": keys})
            }).collect::<Value>(),
            "versions": summary.versions.iter().map(|(version, keys)| {
                json!({"version": version, "keys": keys})
            }).collect::<Value>(),
            "oldest": summary.oldest.as_ref().map(written_json),
            "newest": summary.newest.as_ref().map(written_json),
            "markers": self.sorted_markers().into_iter().take(MARKERS).map(marker_json).collect::<Value>(),
        });
        if self.arguments.list {
            report["entries"] = entries_json(summary);
        }
        format!("{report:#}\n")
    }

    fn ttl_json(&self) -> Value {
        let summary = &self.outcome.summary;
        let buckets = BUCKETS.iter().zip(summary.ttls);
        let buckets: Value = buckets
            .map(|((end, _), keys)| json!({"below_ms": (*end < u64::MAX).then_some(end), "keys": keys}))
            .collect();
        json!({"buckets": buckets, "does_not_expire": summary.without_ttl})
    }
}

fn entries_json(summary: &Summary) -> Value {
    let entry = |entry: &Entry| {
        json!({
            "key": str::from_utf8(&entry.key).ok(),
            "key_hex": show::hex(&entry.key),
            "content": entry.name,
            "state": entry.state.name(),
            "stored_bytes": entry.size,
            "ttl_ms": entry.ttl_millis,
        })
    };
    summary.entries.iter().map(entry).collect()
}

fn written_json(written: &Written) -> Value {
    json!({
        "key": str::from_utf8(&written.key).ok(),
        "key_hex": show::hex(&written.key),
        "created": show::time(written.at),
        "created_ms": written.at,
        "age_ms": written.age_millis,
    })
}

fn marker_json(marker: &Marker) -> Value {
    json!({
        "key": str::from_utf8(&marker.key).ok(),
        "key_hex": show::hex(&marker.key),
        "content": marker.name,
        "state": marker.state.name(),
        "age_ms": marker.age_millis,
        "ttl_ms": marker.ttl_millis,
    })
}

fn all_of(names: &[&'static str], counted: &BTreeMap<&'static str, u64>) -> Value {
    names.iter().map(|name| ((*name).to_owned(), Value::from(of(counted, name)))).collect()
}

fn of(counted: &BTreeMap<&'static str, u64>, name: &str) -> u64 {
    counted.get(name).copied().unwrap_or(0)
}

fn state_name(state: State) -> &'static str {
    match state {
        State::OtherRun => "of another run",
        State::Future => "from the future",
        state => state.name(),
    }
}

fn row(label: &str, value: impl Display) -> Vec<String> {
    vec![label.to_owned(), value.to_string()]
}

fn cells(cells: [&str; 5]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Appends the numbers that are not zero, each on a line, the label before the first.
fn counts(rows: &mut Vec<Vec<String>>, label: &str, numbers: impl Iterator<Item = (impl Display, u64)>) {
    blocks(rows, label, numbers.filter(|(_, keys)| *keys > 0).map(|(name, keys)| (name, keys.to_string())));
}

fn blocks(rows: &mut Vec<Vec<String>>, label: &str, values: impl IntoIterator<Item = (impl Display, String)>) {
    for (at, (name, value)) in values.into_iter().enumerate() {
        let label = if at == 0 { label } else { "" };
        rows.push(vec![label.to_owned(), format!("{value:>10}  {name}")]);
    }
}
