//! The SQL of PostgreSQL.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use sqlx::error::DatabaseError;

use super::{
    Dialect, Which,
    fault::Fault,
    key_locks::KeyLocks,
    statement::{Argument, Statement, Syntax},
};

/// PostgreSQL.
#[derive(Debug)]
pub(crate) struct Postgres;

static SYNTAX: Syntax = Syntax {
    now: "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint",
    least: "LEAST",
    greatest: "GREATEST",
    numbered: true,
    selects_values: true,
};

/// Returns the syntax of PostgreSQL.
pub(crate) fn syntax() -> &'static Syntax {
    &SYNTAX
}

impl Dialect for Postgres {
    fn title(&self) -> &'static str {
        "PostgreSQL"
    }

    fn name(&self) -> &'static str {
        "postgres"
    }

    fn max_name_len(&self) -> usize {
        63
    }

    fn syntax(&self) -> &'static Syntax {
        &SYNTAX
    }

    fn begin(&self, locks: &dyn Fn() -> KeyLocks, timeout: Duration) -> Cow<'static, str> {
        let (locks, millis) = (locks(), timeout.as_millis().clamp(1, i32::MAX as u128));
        // While the server waits for a lock or for the next statement, it does not notice that the
        // caller has given up. It would keep the locks that other transactions wait for.
        let limit = format!("SET LOCAL lock_timeout = {millis}");
        let mut text = String::new();
        if let Some(wait) = select("pg_advisory_xact_lock", locks.exclusive()) {
            let _ = write!(text, "BEGIN; {limit}; {wait}; COMMIT; ");
        }
        // READ COMMITTED, whatever the default of the database: after the wait, the writes of other
        // transactions are visible.
        let _ = write!(
            text,
            "BEGIN ISOLATION LEVEL READ COMMITTED; {limit}; SET LOCAL idle_in_transaction_session_timeout = {millis}"
        );
        if let Some(hold) = select("pg_advisory_xact_lock_shared", locks.shared()) {
            let _ = write!(text, "; {hold}");
        }
        text.into()
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
            // Rows that another transaction has locked are left to the next sweep.
            Which::Expired => delete
                .push(&format!(
                    " WHERE expires_at <= {{now}} ORDER BY expires_at LIMIT {limit} FOR UPDATE SKIP LOCKED)"
                ))
                .push(" AND expires_at <= {now}"),
        };
    }

    fn create(&self, table: &str) -> String {
        include_str!("../../sql/postgres.sql").replace("cache_entries", table)
    }

    fn why_no_announcements(&self) -> Option<&'static str> {
        None
    }

    fn classify_database(&self, error: &dyn DatabaseError) -> Fault {
        let code = error.code().unwrap_or_default();
        match &*code {
            "40001" | "40P01" | "55P03" => Fault::Conflict,
            "57P01" | "57P02" | "57P05" | "25P03" => Fault::Lost,
            "57P03" | "53300" => Fault::Unavailable,
            "57014" => Fault::TimedOut,
            "53100" | "53200" | "54000" => Fault::Full,
            "25006" => Fault::ReadOnly,
            "42501" => Fault::Denied,
            "42P01" => Fault::NoTable,
            // The last two occur when two processes create it concurrently.
            "42P07" | "23505" | "42710" => Fault::TableExists,
            "42703" | "42P10" | "42804" | "42883" | "42846" | "23502" | "22001" | "22003" => Fault::SchemaMismatch,
            code if code.starts_with("08") => Fault::Lost,
            code if code.starts_with("28") => Fault::Denied,
            _ => Fault::Other,
        }
    }

    fn describe(&self, error: &dyn DatabaseError) -> String {
        // Only the message: the details of some errors show a row.
        format!("PostgreSQL error {}: {}", error.code().unwrap_or_default(), error.message())
    }
}

/// The triggers by which a table announces its changes.
const ANNOUNCERS: [&str; 5] =
    ["announce_insert", "announce_update_old", "announce_update_new", "announce_delete", "announce_truncate"];

/// Returns an expression for the triggers by which the table of this name announces its changes.
/// Its text changes if one of them is changed or replaced, and is NULL if one is missing or
/// disabled.
pub(crate) fn announcers(table: &str) -> String {
    let names = ANNOUNCERS.join("', '");
    // `A`: they also fire if the session has the role of a replica.
    format!(
        "(SELECT string_agg(oid::text || '.' || xmin::text, ' ' ORDER BY oid) FROM pg_trigger \
         WHERE tgrelid = to_regclass('\"{table}\"') AND tgname IN ('{names}') AND tgenabled = 'A' \
         HAVING count(*) = {})",
        ANNOUNCERS.len()
    )
}

/// Returns a statement that waits for other transactions which install the triggers of this table.
pub(crate) fn lock_announcers(table: &str) -> String {
    format!("SELECT pg_advisory_xact_lock(hashtextextended('announce {table}', 0))")
}

/// Returns the statements that install the triggers. They replace those that exist.
pub(crate) fn install_announcers(table: &str) -> String {
    let mut text = String::new();
    for name in ANNOUNCERS {
        let _ = write!(text, "DROP TRIGGER IF EXISTS {name} ON \"{table}\"; ");
    }
    text + &include_str!("../../sql/postgres_announce.sql").replace("cache_entries", table)
}

/// Returns `SELECT function(n), function(n), …`, or `None` without numbers.
fn select(function: &str, numbers: impl Iterator<Item = i64>) -> Option<String> {
    let calls: Vec<String> = numbers.map(|number| format!("{function}({number})")).collect();
    (!calls.is_empty()).then(|| format!("SELECT {}", calls.join(", ")))
}
