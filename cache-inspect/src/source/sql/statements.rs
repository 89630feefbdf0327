//! The statements, which only read.

use std::time::Duration;

use super::super::MAX_RECORD;
use crate::error::{Error, Result};

/// The number of rows of a page.
pub(super) const PAGE: u64 = 500;

/// What a database has of its own.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Dialect {
    pub(super) kind: Database,
    pub(super) title: &'static str,
    quote: char,
    /// The largest number of characters of a table's name.
    max_name: usize,
    /// The time by the clock of the database, in Unix milliseconds.
    now: &'static str,
    /// The length of the value as an integer of 64 bits.
    length: &'static str,
    /// `true` if placeholders of arguments are numbered, as in `$1`.
    is_numbered: bool,
}

/// Which database it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Database {
    #[cfg(feature = "mysql")]
    MySql,
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "sqlite")]
    Sqlite,
}

#[cfg(feature = "mysql")]
pub(crate) const MYSQL: &Dialect = &Dialect {
    kind: Database::MySql,
    title: "MySQL",
    quote: '`',
    max_name: 64,
    now: "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)",
    length: "CAST(LENGTH(value) AS SIGNED)",
    is_numbered: false,
};

#[cfg(feature = "postgres")]
pub(crate) const POSTGRES: &Dialect = &Dialect {
    kind: Database::Postgres,
    title: "PostgreSQL",
    quote: '"',
    max_name: 63,
    now: "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint",
    length: "octet_length(value)::bigint",
    is_numbered: true,
};

#[cfg(feature = "sqlite")]
pub(crate) const SQLITE: &Dialect = &Dialect {
    kind: Database::Sqlite,
    title: "SQLite",
    quote: '"',
    max_name: 64,
    now: "CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER)",
    length: "length(value)",
    is_numbered: false,
};

impl Dialect {
    /// Returns the statements that begin a transaction that only reads.
    pub(super) fn begin(&self, timeout: Duration) -> String {
        // Only PostgreSQL limits the time by itself.
        let _ = timeout;
        match self.kind {
            #[cfg(feature = "mysql")]
            Database::MySql => "START TRANSACTION READ ONLY".to_owned(),
            #[cfg(feature = "postgres")]
            Database::Postgres => {
                let millis = timeout.as_millis().clamp(1, i32::MAX as u128);
                format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {millis}")
            }
            // The connection only reads.
            #[cfg(feature = "sqlite")]
            Database::Sqlite => "BEGIN".to_owned(),
        }
    }

    fn placeholder(&self, number: usize) -> String {
        if self.is_numbered { format!("${number}") } else { "?".to_owned() }
    }
}

/// The texts of the queries on a table. Their first argument is the namespace, and the others are ids.
pub(super) struct Statements {
    dialect: &'static Dialect,
    table: String,
}

impl Statements {
    /// # Errors
    ///
    /// Returns an error of usage if the name of the table is invalid. No character of a valid name is
    /// special inside quotes.
    pub(super) fn new(dialect: &'static Dialect, table: &str) -> Result<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let most = dialect.max_name;
        if !(1..=most).contains(&table.len()) || !table.bytes().all(is_allowed) {
            let message = format!("the name of the table must be 1 to {most} characters of A-Z a-z 0-9 _");
            return Err(Error::usage(message));
        }
        Ok(Self { dialect, table: format!("{0}{table}{0}", dialect.quote) })
    }

    /// Selects the next rows after an id, without their values.
    pub(super) fn page(&self) -> String {
        let (select, last) = (self.select("NULL"), self.dialect.placeholder(2));
        format!("{select} AND id > {last} ORDER BY id LIMIT {PAGE}")
    }

    /// Selects rows by their ids, without their values.
    pub(super) fn sizes(&self, count: usize) -> String {
        self.by_ids("NULL", count)
    }

    /// Selects rows by their ids, with the values that may be records.
    pub(super) fn values(&self, count: usize) -> String {
        let length = self.dialect.length;
        self.by_ids(&format!("CASE WHEN {length} <= {MAX_RECORD} THEN value END"), count)
    }

    fn by_ids(&self, value: &str, count: usize) -> String {
        let placeholders: Vec<String> = (0..count).map(|at| self.dialect.placeholder(at + 2)).collect();
        format!("{} AND id IN ({})", self.select(value), placeholders.join(", "))
    }

    fn select(&self, value: &str) -> String {
        let Dialect { now, length, .. } = self.dialect;
        let (table, namespace) = (&self.table, self.dialect.placeholder(1));
        format!(
            "SELECT id, full_key, write_id, written_at, expires_at, {now}, {length}, {value} FROM {table} \
             WHERE namespace = {namespace}"
        )
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn names_with_special_characters_of_sql_are_refused() {
        for name in ["", "a b", "a\"b", "a;b", "a.b", "ä", &"a".repeat(65)] {
            assert!(Statements::new(SQLITE, name).is_err(), "{name}");
        }
        assert!(Statements::new(SQLITE, &"a".repeat(64)).is_ok());
    }
}
