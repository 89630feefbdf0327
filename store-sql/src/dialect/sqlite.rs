//! The SQL of SQLite.

use std::{borrow::Cow, time::Duration};

use sqlx::error::DatabaseError;

use super::{
    Dialect, Which,
    fault::Fault,
    key_locks::KeyLocks,
    statement::{Argument, Statement, Syntax},
};

/// SQLite.
#[derive(Debug)]
pub(crate) struct Sqlite;

static SYNTAX: Syntax = Syntax {
    now: "CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER)",
    least: "MIN",
    greatest: "MAX",
    numbered: false,
    selects_values: true,
};

impl Dialect for Sqlite {
    fn title(&self) -> &'static str {
        "SQLite"
    }

    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn syntax(&self) -> &'static Syntax {
        &SYNTAX
    }

    fn begin(&self, _: &dyn Fn() -> KeyLocks, _: Duration) -> Cow<'static, str> {
        // A transaction that begins as a reader cannot always become a writer.
        "BEGIN IMMEDIATE".into()
    }

    fn lock_suffix(&self) -> &'static str {
        ""
    }

    fn delete_some<'a>(&self, delete: &mut Statement<'a>, table: &str, which: Which<'a>, limit: usize) {
        delete.push("DELETE FROM ").push(table).push(" WHERE rowid IN (SELECT rowid FROM ").push(table);
        match which {
            Which::Namespace(namespace) => delete.push(" WHERE namespace = ").bind(Argument::Text(namespace)),
            Which::Expired => delete.push(" WHERE expires_at <= {now}"),
        };
        delete.push(&format!(" LIMIT {limit})"));
    }

    fn create(&self, table: &str) -> String {
        include_str!("../../sql/sqlite.sql").replace("cache_entries", table)
    }

    fn why_no_announcements(&self) -> Option<&'static str> {
        Some(
            "SQLite cannot announce the changes of a table to other processes; leave announce_changes() out, and call \
             `invalidate` of the chain where the application learns of a change, or limit the tiers in memory by \
             `Tier::max_ttl`",
        )
    }

    fn classify_database(&self, error: &dyn DatabaseError) -> Fault {
        let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
        let message = error.message();
        // The lower byte is the kind; the other bytes are details.
        match code & 0xff {
            5 | 6 => Fault::Conflict,
            7 | 13 | 18 => Fault::Full,
            8 => Fault::ReadOnly,
            3 | 23 => Fault::Denied,
            14 => Fault::CannotOpen,
            1 if message.starts_with("no such table") => Fault::NoTable,
            1 if message.contains("already exists") => Fault::TableExists,
            1 if message.contains("column") || message.contains("ON CONFLICT") => Fault::SchemaMismatch,
            19 | 20 => Fault::SchemaMismatch,
            _ => Fault::Other,
        }
    }

    fn describe(&self, error: &dyn DatabaseError) -> String {
        format!("SQLite error {}: {}", error.code().unwrap_or_default(), error.message())
    }
}
