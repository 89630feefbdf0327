//! The differences between the databases.

// From the bottom up: each module uses only those above it, and the databases use the trait below.
pub(crate) mod fault;
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "only PostgreSQL needs the locks"))]
pub(crate) mod key_locks;
pub(crate) mod statement;

#[cfg(feature = "mysql")]
pub(crate) mod mysql;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

use std::{borrow::Cow, fmt::Debug, time::Duration};

use sqlx::error::DatabaseError;

use self::{
    fault::Fault,
    key_locks::KeyLocks,
    statement::{Statement, Syntax},
};

/// The SQL of a database.
///
/// The default methods are for databases with `ON CONFLICT … RETURNING`. In the text of a tail,
/// `{table}` stands for the quoted table, `{latest}` for the latest time that a valid row can have,
/// and `{greatest}` for [`Syntax::greatest`].
pub(crate) trait Dialect: Debug + Send + Sync {
    /// Returns the name for messages.
    fn title(&self) -> &'static str;

    /// Returns the name in the store's profile.
    fn name(&self) -> &'static str;

    fn syntax(&self) -> &'static Syntax;

    /// Returns the largest number of characters of a table's name.
    fn max_name_len(&self) -> usize {
        64
    }

    /// Returns the table's name in quotes.
    fn quote(&self, table: &str) -> String {
        format!("\"{table}\"")
    }

    /// Returns the statements that begin a transaction that writes, sent as one. `locks` returns
    /// the keys that it may insert and remove, and `timeout` is how long its caller waits.
    fn begin(&self, locks: &dyn Fn() -> KeyLocks, timeout: Duration) -> Cow<'static, str>;

    /// Returns the suffix of a `SELECT` that locks the rows.
    fn lock_suffix(&self) -> &'static str {
        " FOR UPDATE"
    }

    /// Returns the tail of an `INSERT` that replaces existing rows of the same keys.
    fn replace_tail(&self) -> &'static str {
        " ON CONFLICT (namespace, id) DO UPDATE SET full_key = excluded.full_key, value = excluded.value, \
         write_id = excluded.write_id, written_at = excluded.written_at, expires_at = excluded.expires_at"
    }

    /// Returns the tail of an `INSERT` of markers. It does not change live rows, but extends the
    /// lives of plain markers.
    fn lease_tail(&self) -> &'static str {
        // A live row with a value is not changed, so it is not returned either.
        " ON CONFLICT (namespace, id) DO UPDATE SET full_key = excluded.full_key, value = NULL, \
         write_id = CASE WHEN {table}.expires_at IS NULL OR {table}.expires_at > {now} \
         THEN {table}.write_id ELSE excluded.write_id END, written_at = excluded.written_at, \
         expires_at = CASE WHEN {table}.write_id < 0 AND {table}.expires_at > {now} \
         THEN {table}.expires_at ELSE {greatest}({table}.expires_at, excluded.expires_at) END \
         WHERE {table}.value IS NULL OR {table}.expires_at <= {now} RETURNING id, full_key, write_id"
    }

    /// Returns the tail of an `INSERT` of a claim's marker. It replaces expired rows, plain
    /// markers, and markers from the future.
    fn claim_tail(&self) -> &'static str {
        " ON CONFLICT (namespace, id) DO UPDATE SET full_key = excluded.full_key, value = NULL, \
         write_id = excluded.write_id, written_at = excluded.written_at, expires_at = excluded.expires_at \
         WHERE {table}.value IS NULL AND ({table}.write_id >= 0 OR {table}.written_at > {latest}) \
         OR {table}.expires_at <= {now} \
         RETURNING id, full_key, write_id"
    }

    /// Returns `true` if the `INSERT` of markers returns the rows that it has written.
    fn insert_returns_rows(&self) -> bool {
        true
    }

    /// Appends a statement that deletes at most `limit` rows of the quoted table.
    fn delete_some<'a>(&self, delete: &mut Statement<'a>, table: &str, which: Which<'a>, limit: usize);

    /// Returns the statements that create the table of this name.
    fn create(&self, table: &str) -> String;

    /// Returns why the database cannot announce the changes of a table, and what to do instead;
    /// `None` if it can.
    fn why_no_announcements(&self) -> Option<&'static str>;

    /// Returns a query that returns a row if the table of this name does not have the required
    /// schema, where other statements would not fail.
    fn find_schema_mismatch(&self, table: &str) -> Option<String> {
        let _ = table;
        None
    }

    /// Classifies an error of the database.
    fn classify_database(&self, error: &dyn DatabaseError) -> Fault;

    /// Classifies an error of the database or the driver.
    fn classify(&self, error: &sqlx::Error) -> Fault {
        match error {
            sqlx::Error::Database(error) => self.classify_database(&**error),
            error => Fault::of_driver(error),
        }
    }

    /// Returns the part of a database's error that may be shown. It never contains a value.
    fn describe(&self, error: &dyn DatabaseError) -> String;
}

/// The rows to delete.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    /// The rows of the namespace.
    Namespace(&'a str),
    /// All expired rows.
    Expired,
}
