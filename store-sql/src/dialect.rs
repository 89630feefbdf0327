//! What differs from one database to the other.

use std::{borrow::Cow, fmt::Debug, time::Duration};

use sqlx::error::DatabaseError;

use crate::{error::Fault, key_locks::KeyLocks, statement::Statement};

/// The table's columns, in the order in which rows are inserted.
pub(crate) const COLUMNS: &str = "(namespace, id, full_key, value, write_id, written_at, expires_at)";

/// What makes a row one that is still there.
pub(crate) const LIVE: &str = "(expires_at IS NULL OR expires_at > {now})";

/// By how many milliseconds a row may be ahead of the statement that reads it. One clock sets and reads both times, but a busy
/// server may run a statement some time after it has noted when it began. A row further ahead was written before the clock was
/// set back.
pub(crate) const AHEAD_MILLIS: i64 = 1000;

/// The SQL of a database.
pub(crate) trait Dialect: Debug + Send + Sync {
    /// Its name, for people.
    fn title(&self) -> &'static str;

    /// Its name in the store's profile.
    fn name(&self) -> &'static str;

    /// The most characters of a table's name.
    fn longest_name(&self) -> usize;

    /// The table's name, quoted.
    fn quoted(&self, table: &str) -> String;

    /// The text that stands for the `number`th argument.
    fn placeholder(&self, number: usize, text: &mut String) {
        let _ = number;
        text.push('?');
    }

    /// The time by the database's clock when the statement began, in whole Unix milliseconds.
    fn now(&self) -> &'static str;

    /// The function that gives the smaller of two numbers.
    fn least(&self) -> &'static str {
        "LEAST"
    }

    /// The statements that begin a transaction that writes, sent as one. `locks` tells what it may insert and remove, and
    /// `deadline` how long its caller waits.
    fn begin(&self, locks: &dyn Fn() -> KeyLocks, deadline: Duration) -> Cow<'static, str>;

    /// What makes a `SELECT` lock the rows that it finds.
    fn locking(&self) -> &'static str {
        " FOR UPDATE"
    }

    /// What follows the rows of an `INSERT` that replaces the rows of the same keys.
    fn replacing(&self) -> &'static str;

    /// What follows the rows of an `INSERT` of markers, which leaves live rows alone, but lengthens the lives of markers that are no
    /// claims.
    /// `{table}` in it is the quoted table.
    fn leasing(&self) -> &'static str;

    /// What follows the row of an `INSERT` of a claim's marker, which replaces what has expired, plain markers, and markers from
    /// the future: `{latest}` in it is the latest time that a row can have.
    fn claiming(&self) -> &'static str;

    /// Whether the `INSERT` of markers returns the rows that are there then.
    fn leasing_returns(&self) -> bool {
        true
    }

    /// Deletes at most `limit` rows of the quoted table: those of the namespace, or all that have expired.
    fn delete_some<'a>(&self, delete: &mut Statement<'a>, table: &str, which: Which<'a>, limit: usize);

    /// The statements that create the table of this name.
    fn create(&self, table: &str) -> String;

    /// A query that gives a row if the table of this name is not fit, where the other statements would not tell.
    fn misfit(&self, table: &str) -> Option<String> {
        let _ = table;
        None
    }

    /// What an error of the database means.
    fn fault(&self, error: &dyn DatabaseError) -> Fault;

    /// What of an error may be shown: never a value.
    fn shown(&self, error: &dyn DatabaseError) -> String;
}

/// Which rows to delete.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    Namespace(&'a str),
    Expired,
}
