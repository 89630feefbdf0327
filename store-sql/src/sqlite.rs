//! SQLite.

use std::{borrow::Cow, time::Duration};

use sqlx::error::DatabaseError;

use crate::{
    dialect::{Dialect, Which},
    error::Fault,
    key_locks::KeyLocks,
    statement::{Argument, Statement},
};

/// SQLite.
#[derive(Debug)]
pub(crate) struct Sqlite;

impl Dialect for Sqlite {
    fn title(&self) -> &'static str {
        "SQLite"
    }

    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn longest_name(&self) -> usize {
        64
    }

    fn quoted(&self, table: &str) -> String {
        format!("\"{table}\"")
    }

    fn now(&self) -> &'static str {
        "CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER)"
    }

    fn least(&self) -> &'static str {
        "MIN"
    }

    fn begin(&self, _: &dyn Fn() -> KeyLocks, _: Duration) -> Cow<'static, str> {
        // A transaction that begins as a reader cannot always become a writer.
        "BEGIN IMMEDIATE".into()
    }

    fn locking(&self) -> &'static str {
        ""
    }

    fn replacing(&self) -> &'static str {
        " ON CONFLICT (namespace, id) DO UPDATE SET full_key = excluded.full_key, value = excluded.value, \
         write_id = excluded.write_id, written_at = excluded.written_at, expires_at = excluded.expires_at"
    }

    fn leasing(&self) -> &'static str {
        // What is live and no marker is not touched, so it does not come back either.
        " ON CONFLICT (namespace, id) DO UPDATE SET full_key = excluded.full_key, value = NULL, \
         write_id = CASE WHEN {table}.expires_at IS NULL OR {table}.expires_at > {now} \
         THEN {table}.write_id ELSE excluded.write_id END, written_at = excluded.written_at, \
         expires_at = CASE WHEN {table}.write_id < 0 AND {table}.expires_at > {now} \
         THEN {table}.expires_at ELSE MAX({table}.expires_at, excluded.expires_at) END \
         WHERE {table}.value IS NULL OR {table}.expires_at <= {now} RETURNING id, full_key, write_id"
    }

    fn claiming(&self) -> &'static str {
        " ON CONFLICT (namespace, id) DO UPDATE SET full_key = excluded.full_key, value = NULL, \
         write_id = excluded.write_id, written_at = excluded.written_at, expires_at = excluded.expires_at \
         WHERE {table}.value IS NULL AND ({table}.write_id >= 0 OR {table}.written_at > {latest}) \
         OR {table}.expires_at <= {now} \
         RETURNING id, full_key, write_id"
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
        include_str!("../sql/sqlite.sql").replace("cache_entries", table)
    }

    fn fault(&self, error: &dyn DatabaseError) -> Fault {
        let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
        let message = error.message();
        // The lower byte is the kind, the rest says more.
        match code & 0xff {
            5 | 6 => Fault::Conflict,
            7 | 13 | 18 => Fault::Full,
            8 => Fault::ReadOnly,
            3 | 23 => Fault::Denied,
            14 => Fault::Unopened,
            1 if message.starts_with("no such table") => Fault::NoTable,
            1 if message.contains("already exists") => Fault::TableExists,
            1 if message.contains("column") || message.contains("ON CONFLICT") => Fault::Shape,
            19 | 20 => Fault::Shape,
            _ => Fault::Other,
        }
    }

    fn shown(&self, error: &dyn DatabaseError) -> String {
        format!("SQLite error {}: {}", error.code().unwrap_or_default(), error.message())
    }
}
