//! PostgreSQL.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use sqlx::error::DatabaseError;

use crate::{
    dialect::{Dialect, Which},
    error::Fault,
    key_locks::KeyLocks,
    statement::{Argument, Statement},
};

/// PostgreSQL.
#[derive(Debug)]
pub(crate) struct Postgres;

impl Dialect for Postgres {
    fn title(&self) -> &'static str {
        "PostgreSQL"
    }

    fn name(&self) -> &'static str {
        "postgres"
    }

    fn longest_name(&self) -> usize {
        63
    }

    fn quoted(&self, table: &str) -> String {
        format!("\"{table}\"")
    }

    fn placeholder(&self, number: usize, text: &mut String) {
        let _ = write!(text, "${number}");
    }

    fn now(&self) -> &'static str {
        "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
    }

    fn begin(&self, locks: &dyn Fn() -> KeyLocks, deadline: Duration) -> Cow<'static, str> {
        let (locks, millis) = (locks(), deadline.as_millis().clamp(1, i32::MAX as u128));
        // The server does not notice that a caller has given up while it waits for a lock or for the next statement; it would
        // keep the locks that others wait for.
        let limit = format!("SET LOCAL lock_timeout = {millis}");
        let mut text = String::new();
        if let Some(wait) = select("pg_advisory_xact_lock", locks.exclusive()) {
            let _ = write!(text, "BEGIN; {limit}; {wait}; COMMIT; ");
        }
        // What the others wrote is to be seen after waiting for them, whatever the default of the database.
        let _ = write!(
            text,
            "BEGIN ISOLATION LEVEL READ COMMITTED; {limit}; SET LOCAL idle_in_transaction_session_timeout = {millis}"
        );
        if let Some(hold) = select("pg_advisory_xact_lock_shared", locks.shared()) {
            let _ = write!(text, "; {hold}");
        }
        text.into()
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
         THEN {table}.expires_at ELSE GREATEST({table}.expires_at, excluded.expires_at) END \
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
        delete
            .push("DELETE FROM ")
            .push(table)
            .push(" WHERE (namespace, id) IN (SELECT namespace, id FROM ")
            .push(table);
        match which {
            Which::Namespace(namespace) => delete
                .push(" WHERE namespace = ")
                .bind(Argument::Text(namespace))
                .push(&format!(" ORDER BY id LIMIT {limit} FOR UPDATE)")),
            // What somebody is writing is not worth waiting for.
            Which::Expired => delete
                .push(&format!(
                    " WHERE expires_at <= {{now}} ORDER BY expires_at LIMIT {limit} FOR UPDATE SKIP LOCKED)"
                ))
                .push(" AND expires_at <= {now}"),
        };
    }

    fn create(&self, table: &str) -> String {
        include_str!("../sql/postgres.sql").replace("cache_entries", table)
    }

    fn fault(&self, error: &dyn DatabaseError) -> Fault {
        let code = error.code().unwrap_or_default();
        match &*code {
            "40001" | "40P01" | "55P03" => Fault::Conflict,
            "57P01" | "57P02" | "57P05" | "25P03" => Fault::Lost,
            "57P03" | "53300" => Fault::Unavailable,
            "57014" => Fault::Late,
            "53100" | "53200" | "54000" => Fault::Full,
            "25006" => Fault::ReadOnly,
            "42501" => Fault::Denied,
            "42P01" => Fault::NoTable,
            // The last two come when two create it at once.
            "42P07" | "23505" | "42710" => Fault::TableExists,
            "42703" | "42P10" | "42804" | "42883" | "42846" | "23502" | "22001" | "22003" => Fault::Shape,
            code if code.starts_with("08") => Fault::Lost,
            code if code.starts_with("28") => Fault::Denied,
            _ => Fault::Other,
        }
    }

    fn shown(&self, error: &dyn DatabaseError) -> String {
        // The message alone: the details of some errors show a row.
        format!("PostgreSQL error {}: {}", error.code().unwrap_or_default(), error.message())
    }
}

/// `SELECT function(n), function(n), …`, `None` without numbers.
fn select(function: &str, numbers: impl Iterator<Item = i64>) -> Option<String> {
    let calls: Vec<String> = numbers.map(|number| format!("{function}({number})")).collect();
    (!calls.is_empty()).then(|| format!("SELECT {}", calls.join(", ")))
}
