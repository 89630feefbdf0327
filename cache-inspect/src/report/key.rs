//! The report on one key.

use cache_core::{
    backend::{Content, Description},
    codec,
};
use serde_json::{Value, json};

use super::{
    payload::{Payload, Shown},
    show,
};
use crate::{
    arguments::Place,
    examine::{Binding, Examined, State, binding, millis},
    source::{Found, Run},
};

/// What is stored under a key.
pub(crate) struct Key<'a> {
    pub(crate) source: &'static str,
    pub(crate) place: &'a Place,
    pub(crate) run: Run,
    pub(crate) found: &'a Found,
    pub(crate) examined: &'a Examined,
}

impl Key<'_> {
    /// Returns the report as aligned text.
    pub(crate) fn text(&self, payload: Option<&Payload>) -> String {
        let Self { found, examined, .. } = self;
        let mut rows = vec![
            vec!["backend".to_owned(), self.source.to_owned()],
            vec!["namespace".to_owned(), self.place.namespace.clone()],
            vec!["key".to_owned(), show::key(&found.key)],
            vec!["content".to_owned(), content(examined)],
        ];
        let mut row = |label: &str, value: String| rows.push(vec![label.to_owned(), value]);
        if let Some(reason) = examined.held.reason() {
            row("reason", reason.to_owned());
        }
        row("state", state(examined.state).to_owned());
        if let Some(record) = examined.held.record() {
            self.record_rows(record, &mut row);
        }
        row("stored", format!("{} bytes", found.size));
        row("ttl", show::ttl(millis(found.ttl)));
        row("server time", show::time(found.now));
        if let Some(payload) = payload {
            let left_out = match payload.left_out {
                0 => String::new(),
                count => format!(" … and {count} bytes"),
            };
            row(
                "payload",
                match &payload.shown {
                    Shown::Json(text) => show::printable(text) + &left_out,
                    Shown::Hex(digits) => digits.clone() + &left_out,
                },
            );
        }
        show::table(&rows)
    }

    fn record_rows(&self, record: &Description, row: &mut impl FnMut(&str, String)) {
        let (now, life) = (self.found.now, record.life);
        let has_value = matches!(record.content, Content::Value | Content::Absence);
        row("created", show::time_from(life.created, now));
        if has_value {
            let at = |time: Option<u64>, without: &str| {
                time.map_or_else(|| without.to_owned(), |time| show::time_from(time, now))
            };
            row("stale", at(life.stale, "does not turn stale before it expires"));
            row("expires", at(life.expires, "does not expire"));
            let age = life.age_millis.map(|age| u64::from(age).saturating_add(now.saturating_sub(life.created)));
            row("age", age.map_or_else(|| "unknown".to_owned(), show::duration));
            row("load took", show::duration(life.load_millis.into()));
            row("codec", codec_name(record.codec));
            row("schema", format!("{:08x}", record.schema));
        }
        row("write id", format!("{:016x}", record.write_id));
        row("format", format!("version {}", record.version));
        if self.run != Run::Irrelevant {
            row("epoch", self.epoch(record));
        }
        if let Some(validator) = &record.validator {
            row("validator", show::printable(validator));
        }
        if has_value {
            row("payload size", format!("{} bytes", record.payload));
        }
    }

    fn epoch(&self, record: &Description) -> String {
        let epoch = record.epoch.map_or_else(|| "none".to_owned(), |epoch| format!("{epoch:08x}"));
        let relation = match (binding(record, self.run), self.run) {
            (Binding::Current, _) => "the current run of the server",
            (Binding::Other, _) => "another run of the server",
            (Binding::Unbound, _) => "of a process that does not know the run, or trusts restarts",
            (Binding::Unknown, Run::Replica) => "unknown, because this server is a replica",
            (Binding::Unknown, Run::Denied) => "unknown, because INFO is not permitted",
            (Binding::Unknown, _) => "the format has none",
        };
        format!("{epoch} ({relation})")
    }

    /// Returns the report as JSON.
    pub(crate) fn json(&self, payload: Option<&Payload>) -> String {
        let Self { found, examined, .. } = self;
        let mut report = json!({
            "backend": self.source,
            "namespace": self.place.namespace,
            "key": str::from_utf8(&found.key).ok(),
            "key_hex": show::hex(&found.key),
            "content": examined.held.name(),
            "reason": examined.held.reason(),
            "state": examined.state.name(),
            "stored_bytes": found.size,
            "ttl_ms": millis(found.ttl),
            "server_time": show::time(found.now),
            "server_time_ms": found.now,
            "record": examined.held.record().map(|record| self.record_json(record)),
        });
        if let Some(payload) = payload {
            let (text, hex) = match &payload.shown {
                Shown::Json(text) => (Some(text), None),
                Shown::Hex(digits) => (None, Some(digits)),
            };
            report["payload"] = json!({"text": text, "hex": hex, "left_out_bytes": payload.left_out});
        }
        format!("{report:#}\n")
    }

    fn record_json(&self, record: &Description) -> Value {
        let (now, life) = (self.found.now, record.life);
        let left = |time: Option<u64>| time.map(|time| time.saturating_sub(now));
        let has_value = matches!(record.content, Content::Value | Content::Absence);
        json!({
            "version": record.version,
            "codec": has_value.then(|| json!({"id": record.codec, "name": codec::name_of(record.codec)})),
            "schema": has_value.then(|| format!("{:08x}", record.schema)),
            "write_id": format!("{:016x}", record.write_id),
            "created": show::time(life.created),
            "created_ms": life.created,
            "stale_ms": life.stale,
            "stale_in_ms": left(life.stale),
            "expires_ms": life.expires,
            "expires_in_ms": left(life.expires),
            "age_when_written_ms": life.age_millis,
            "load_ms": life.load_millis,
            "epoch": record.epoch.filter(|_| self.run != Run::Irrelevant).map(|epoch| format!("{epoch:08x}")),
            "run": (self.run != Run::Irrelevant).then(|| binding(record, self.run).name()),
            "validator": record.validator,
            "payload_bytes": record.payload,
        })
    }
}

/// Returns the name of a codec, or its number.
pub(super) fn codec_name(id: u8) -> String {
    codec::name_of(id).map_or_else(|| format!("number {id}"), str::to_owned)
}

fn content(examined: &Examined) -> String {
    match examined.held.name() {
        "absence" => "absence: a loader has found no value".to_owned(),
        "lease" => "lease: a process has read the key, and found nothing".to_owned(),
        "claim" => "claim: a process is loading the value".to_owned(),
        "plain" => "plain value".to_owned(),
        "counter" => "counter: the number of the last announcement by pub/sub".to_owned(),
        name => name.to_owned(),
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Live => "live",
        State::Stale => "stale",
        State::Expired => "expired, and not yet removed",
        State::OtherRun => "void: not written in the current run of the server",
        State::Future => "void: written in the future, because the clock was set back",
        State::Unreadable => "a miss for readers",
    }
}
