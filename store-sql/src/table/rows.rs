//! The rows of one namespace, and the statements that read and write them.

use cache_core::backend::Envelope;

use super::identity::Identity;
use crate::dialect::{
    Dialect, Which,
    key_locks::KeyLocks,
    statement::{Argument, Statement},
};

/// The condition for rows that have not expired.
const LIVE: &str = "(expires_at IS NULL OR expires_at > {now})";

/// The largest number of milliseconds by which a row may be ahead of the statement that reads it.
/// One clock sets and reads both times, but a busy server may run a statement some time after it
/// has recorded when the statement began. A row further ahead was written before the clock was set
/// back.
pub(crate) const AHEAD_MILLIS: i64 = 1000;

/// The rows of one namespace in one table.
pub(crate) struct Rows {
    pub(crate) dialect: &'static dyn Dialect,
    pub(crate) table: String,
    pub(crate) namespace: String,
    pub(super) quoted_table: String,
    key_locks: KeyLocks,
}

/// A row to be written.
#[derive(Clone, Copy)]
pub(crate) struct NewRow<'a> {
    pub(crate) identity: &'a Identity,
    /// `None` in a marker.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) write_id: u64,
    /// The earliest possible time by the database's clock. `None` for the time at which the
    /// statement runs.
    pub(crate) written: Option<u64>,
    /// `None` if it does not expire.
    pub(crate) millis: Option<u64>,
}

/// The largest number of ids in a statement.
pub(crate) const MAX_IDS: usize = 1024;

impl Rows {
    pub(crate) fn new(dialect: &'static dyn Dialect, table: String, namespace: String) -> Self {
        let quoted_table = dialect.quote(&table);
        let key_locks = KeyLocks::new(&table, &namespace);
        Self { dialect, table, namespace, quoted_table, key_locks }
    }

    /// Returns an empty set of locks.
    pub(crate) fn key_locks(&self) -> KeyLocks {
        self.key_locks
    }

    pub(super) fn statement(&self, text: &str) -> Statement<'_> {
        let mut statement = Statement::new(self.dialect.syntax());
        statement.push(text).push(&self.quoted_table);
        statement
    }

    /// Reads the database's clock.
    pub(crate) fn read_clock(&self) -> Statement<'_> {
        let mut select = Statement::new(self.dialect.syntax());
        select.push("SELECT {now}");
        select
    }

    /// Selects the live values of these ids, with the remaining time, the time since they were
    /// written and the time at which they were written, in milliseconds.
    pub(crate) fn select<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        self.select_live("value", ids)
    }

    /// As [`select`](Self::select), but selects the first [`Envelope::MAX_HEAD`] bytes of each value
    /// alone.
    pub(crate) fn select_heads<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        self.select_live(&format!("substr(value, 1, {})", Envelope::MAX_HEAD), ids)
    }

    fn select_live<'a>(&'a self, value: &str, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.select_all(value, ids);
        select.push(" AND value IS NOT NULL AND ").push(LIVE);
        select
    }

    /// As [`select`](Self::select), but selects all rows of these ids, live or expired, and locks
    /// them.
    pub(crate) fn lock<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.select_all("value", ids);
        select.push(self.dialect.lock_suffix());
        select
    }

    /// As [`select`](Self::select), but selects all rows of these ids, live or expired.
    pub(crate) fn select_any<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        self.select_all("value", ids)
    }

    fn select_all<'a>(&'a self, value: &str, ids: &[&'a [u8]]) -> Statement<'a> {
        let columns = "SELECT id, full_key, expires_at - {now}, {now} - written_at, written_at, ";
        let mut select = self.statement(&format!("{columns}{value} FROM "));
        select.push(" WHERE ").push_ids(&self.namespace, ids);
        select
    }

    /// Selects the write ids of the live rows of these ids.
    pub(crate) fn select_ids<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.statement("SELECT id, full_key, write_id FROM ");
        select.push(" WHERE ").push_ids(&self.namespace, ids).push(" AND ").push(LIVE);
        select
    }

    /// Selects the write ids of the live values of these ids.
    pub(crate) fn select_ids_of_values<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.select_ids(ids);
        select.push(" AND value IS NOT NULL");
        select
    }

    /// Selects the write ids of the live markers of these ids.
    pub(crate) fn select_ids_of_markers<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.select_ids(ids);
        select.push(" AND value IS NULL");
        select
    }

    /// As [`select_ids`](Self::select_ids), and locks the rows.
    pub(crate) fn lock_ids<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.select_ids(ids);
        select.push(" ORDER BY id").push(self.dialect.lock_suffix());
        select
    }

    /// Replaces the row if it is live and its write id is that of the ticket.
    pub(crate) fn update<'a>(&'a self, row: &NewRow<'a>, ticket: u64) -> Statement<'a> {
        let mut update = self.statement("UPDATE ");
        update.push(" SET full_key = ").bind(Argument::Bytes(row.identity.full_key.as_deref()));
        update.push(", write_id = ").bind(Argument::Int(Some(signed(row.write_id)))).push(", ");
        self.push_value(&mut update, row);
        update.push(" AND write_id = ").bind(Argument::Int(Some(signed(ticket))));
        update
    }

    /// Replaces the value and the life of the row if it is live and the value begins with `head`.
    pub(crate) fn rewrite<'a>(&'a self, row: &NewRow<'a>, head: &'a [u8]) -> Statement<'a> {
        let mut update = self.statement("UPDATE ");
        update.push(" SET ");
        self.push_value(&mut update, row);
        update.push(&format!(" AND substr(value, 1, {}) = ", head.len())).bind(Argument::Bytes(Some(head)));
        update
    }

    /// Appends the assignments of the value and the life, and the condition for the row if it is
    /// live.
    fn push_value<'a>(&'a self, update: &mut Statement<'a>, row: &NewRow<'a>) {
        update.push("value = ").bind(Argument::Bytes(row.value));
        update.push(", written_at = ");
        push_written(update, row);
        update.push(", expires_at = ");
        push_written(update, row);
        update.push(" + ").bind(millis(row.millis));
        update.push(" WHERE namespace = ").bind(Argument::Text(&self.namespace));
        update.push(" AND id = ").bind(Argument::Bytes(Some(&row.identity.id)));
        update.push(" AND ").push(LIVE);
    }

    /// Deletes the rows of these ids.
    pub(crate) fn delete<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut delete = self.statement("DELETE FROM ");
        delete.push(" WHERE ").push_ids(&self.namespace, ids);
        delete
    }

    /// Deletes the markers of these ids that have one of these write ids. No two rows share a write
    /// id.
    pub(crate) fn delete_markers<'a>(&'a self, ids: &[&'a [u8]], write_ids: &[u64]) -> Statement<'a> {
        let mut delete = self.delete(ids);
        push_markers(&mut delete, write_ids);
        delete
    }

    /// Lets the live markers of these ids that have one of these write ids expire in `life`
    /// milliseconds.
    pub(crate) fn renew_markers<'a>(&'a self, ids: &[&'a [u8]], write_ids: &[u64], life: u64) -> Statement<'a> {
        let mut update = self.statement("UPDATE ");
        update.push(" SET expires_at = {now} + ").bind(millis(Some(life)));
        update.push(" WHERE ").push_ids(&self.namespace, ids);
        push_markers(&mut update, write_ids);
        update.push(" AND ").push(LIVE);
        update
    }

    /// Deletes the row of this id if it was written at this time and the time is in the future.
    pub(crate) fn delete_future<'a>(&'a self, id: &'a [u8], written_at: i64) -> Statement<'a> {
        let mut delete = self.delete(&[id]);
        delete.push(" AND written_at = ").bind(Argument::Int(Some(written_at)));
        delete.push(&format!(" AND written_at > {{now}} + {AHEAD_MILLIS}"));
        delete
    }

    /// Deletes at most `limit` rows: those of the namespace, or the expired ones of all namespaces.
    pub(crate) fn delete_some(&self, expired: bool, limit: usize) -> Statement<'_> {
        let which = if expired { Which::Expired } else { Which::Namespace(&self.namespace) };
        let mut delete = Statement::new(self.dialect.syntax());
        self.dialect.delete_some(&mut delete, &self.quoted_table, which, limit);
        delete
    }
}

/// Appends the condition for markers that have one of these write ids.
fn push_markers(statement: &mut Statement<'_>, write_ids: &[u64]) {
    statement.push(" AND value IS NULL AND write_id IN (");
    // Filled up to a power of two, as the ids are.
    for at in 0..write_ids.len().next_power_of_two() {
        if at > 0 {
            statement.push(", ");
        }
        let write_id = write_ids.get(at).or(write_ids.last()).copied();
        statement.bind(Argument::Int(write_id.map(signed)));
    }
    statement.push(")");
}

/// Appends the time at which the row is written. If the clock was set back since it was read, no
/// life becomes longer.
pub(super) fn push_written(statement: &mut Statement<'_>, row: &NewRow<'_>) {
    let Some(written) = row.written else {
        statement.push("{now}");
        return;
    };
    statement.push(statement.syntax().least).push("({now}, ").bind(millis(Some(written))).push(")");
}

pub(super) fn millis<'a>(millis: Option<u64>) -> Argument<'a> {
    Argument::Int(millis.map(|millis| i64::try_from(millis).unwrap_or(i64::MAX)))
}

/// Returns a write id as the table stores it.
pub(crate) fn signed(write_id: u64) -> i64 {
    write_id.cast_signed()
}
