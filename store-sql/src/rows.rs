//! The rows of one namespace, and the statements about them.

use crate::{
    dialect::{AHEAD_MILLIS, COLUMNS, Dialect, LIVE, Which},
    identity::Identity,
    key_locks::KeyLocks,
    statement::{Argument, Statement},
};

/// The rows of one namespace in one table.
pub(crate) struct Rows {
    pub(crate) dialect: &'static dyn Dialect,
    pub(crate) table: String,
    pub(crate) namespace: String,
    quoted: String,
    key_locks: KeyLocks,
}

/// A row to be written.
pub(crate) struct NewRow<'a> {
    pub(crate) identity: &'a Identity,
    /// `None` in a marker.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) write_id: u64,
    /// The time by the database's clock, as far as it is known: it may be later by the way of the statement. `None` for the
    /// moment of the statement.
    pub(crate) written: Option<u64>,
    /// `None` if it does not expire.
    pub(crate) millis: Option<u64>,
}

/// How many ids a statement names at most.
pub(crate) const IDS: usize = 1024;

/// How many rows a statement inserts at most, and how many bytes of values unless one row has more: MariaDB takes statements
/// of 16 MiB.
const INSERTED: (usize, usize) = (256, 4 << 20);

impl Rows {
    pub(crate) fn new(dialect: &'static dyn Dialect, table: String, namespace: String) -> Self {
        let quoted = dialect.quoted(&table);
        let key_locks = KeyLocks::new(&table, &namespace);
        Self { dialect, table, namespace, quoted, key_locks }
    }

    /// The locks of a transaction that does nothing yet.
    pub(crate) fn key_locks(&self) -> KeyLocks {
        self.key_locks
    }

    fn statement(&self, text: &str) -> Statement<'_> {
        let mut statement = Statement::new(self.dialect);
        statement.push(text).push(&self.quoted);
        statement
    }

    /// The time by the database's clock.
    pub(crate) fn clock(&self) -> Statement<'_> {
        let mut select = Statement::new(self.dialect);
        select.push("SELECT {now}");
        select
    }

    /// The live values of these ids, what remains of them, and how long ago and when they were written, in milliseconds.
    pub(crate) fn select<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select =
            self.statement("SELECT id, full_key, expires_at - {now}, {now} - written_at, written_at, value FROM ");
        select.push(" WHERE ").push_ids(&self.namespace, ids).push(" AND value IS NOT NULL AND ").push(LIVE);
        select
    }

    /// The write ids of the live rows of these ids.
    pub(crate) fn select_ids<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.statement("SELECT id, full_key, write_id FROM ");
        select.push(" WHERE ").push_ids(&self.namespace, ids).push(" AND ").push(LIVE);
        select
    }

    /// The write ids of the live rows of these ids, markers left out.
    pub(crate) fn select_ids_of_values<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.select_ids(ids);
        select.push(" AND value IS NOT NULL");
        select
    }

    /// The write ids of the live markers of these ids.
    pub(crate) fn select_ids_of_markers<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.select_ids(ids);
        select.push(" AND value IS NULL");
        select
    }

    /// The same as [`select_ids`](Self::select_ids), to be changed afterwards.
    pub(crate) fn lock_ids<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut select = self.select_ids(ids);
        select.push(" ORDER BY id").push(self.dialect.locking());
        select
    }

    /// Inserts rows, in as many statements as it takes, each ending with `tail`.
    pub(crate) fn insert<'a>(&'a self, rows: &[NewRow<'a>], tail: &str) -> Vec<Statement<'a>> {
        let mut statements = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take(INSERTED.0).take_while(|row| {
                bytes += row.value.map_or(0, <[u8]>::len);
                bytes <= INSERTED.1
            });
            // Each number of rows is another text to prepare. With powers of two there are few, and a connection remembers
            // them: to forget one costs MySQL 40 ms, as the closing of a statement waits for an acknowledgement.
            let (some, others) = rest.split_at(1 << fitting.count().max(1).ilog2());
            statements.push(self.insert_some(some, tail));
            rest = others;
        }
        statements
    }

    fn insert_some<'a>(&'a self, rows: &[NewRow<'a>], tail: &str) -> Statement<'a> {
        let mut insert = self.statement("INSERT INTO ");
        insert.push(" ").push(COLUMNS).push(" VALUES ");
        for (at, row) in rows.iter().enumerate() {
            insert.push(if at == 0 { "(" } else { ", (" }).bind(Argument::Text(&self.namespace));
            insert.push(", ").bind(Argument::Bytes(Some(&row.identity.id)));
            insert.push(", ").bind(Argument::Bytes(row.identity.full_key.as_deref()));
            insert.push(", ").bind(Argument::Bytes(row.value));
            insert.push(", ").bind(Argument::Int(Some(signed(row.write_id))));
            insert.push(", ");
            written(&mut insert, row);
            insert.push(", ");
            written(&mut insert, row);
            insert.push(" + ").bind(millis(row.millis)).push(")");
        }
        let latest = format!("{{now}} + {AHEAD_MILLIS}");
        insert.push(&tail.replace("{table}", &self.quoted).replace("{latest}", &latest));
        insert
    }

    /// Replaces the row if it is live and its write id is this one.
    pub(crate) fn update<'a>(&'a self, row: &NewRow<'a>, ticket: u64) -> Statement<'a> {
        let mut update = self.statement("UPDATE ");
        update.push(" SET full_key = ").bind(Argument::Bytes(row.identity.full_key.as_deref()));
        update.push(", value = ").bind(Argument::Bytes(row.value));
        update.push(", write_id = ").bind(Argument::Int(Some(signed(row.write_id))));
        update.push(", written_at = ");
        written(&mut update, row);
        update.push(", expires_at = ");
        written(&mut update, row);
        update.push(" + ").bind(millis(row.millis));
        update.push(" WHERE namespace = ").bind(Argument::Text(&self.namespace));
        update.push(" AND id = ").bind(Argument::Bytes(Some(&row.identity.id)));
        update.push(" AND write_id = ").bind(Argument::Int(Some(signed(ticket))));
        update.push(" AND ").push(LIVE);
        update
    }

    /// Deletes the rows of these ids.
    pub(crate) fn delete<'a>(&'a self, ids: &[&'a [u8]]) -> Statement<'a> {
        let mut delete = self.statement("DELETE FROM ");
        delete.push(" WHERE ").push_ids(&self.namespace, ids);
        delete
    }

    /// Deletes the markers of these ids that have one of these write ids, which no two rows share.
    pub(crate) fn delete_markers<'a>(&'a self, ids: &[&'a [u8]], write_ids: &[u64]) -> Statement<'a> {
        let mut delete = self.delete(ids);
        delete.push(" AND value IS NULL AND write_id IN (");
        // Filled up to a power of two as the ids are.
        for at in 0..write_ids.len().next_power_of_two() {
            if at > 0 {
                delete.push(", ");
            }
            let write_id = write_ids.get(at).or(write_ids.last()).copied();
            delete.bind(Argument::Int(write_id.map(signed)));
        }
        delete.push(")");
        delete
    }

    /// Deletes the row of this id if it was written at this time and that is in the future.
    pub(crate) fn delete_future<'a>(&'a self, id: &'a [u8], written_at: i64) -> Statement<'a> {
        let mut delete = self.delete(&[id]);
        delete.push(" AND written_at = ").bind(Argument::Int(Some(written_at)));
        delete.push(&format!(" AND written_at > {{now}} + {AHEAD_MILLIS}"));
        delete
    }

    /// Deletes at most `limit` rows: of the namespace, or of all namespaces those that have expired.
    pub(crate) fn delete_some(&self, expired: bool, limit: usize) -> Statement<'_> {
        let which = if expired { Which::Expired } else { Which::Namespace(&self.namespace) };
        let mut delete = Statement::new(self.dialect);
        self.dialect.delete_some(&mut delete, &self.quoted, which, limit);
        delete
    }
}

/// Appends when the row is written. A clock that was set back since it was learned makes no life longer.
fn written(statement: &mut Statement<'_>, row: &NewRow<'_>) {
    let Some(written) = row.written else {
        statement.push("{now}");
        return;
    };
    statement.push(statement.least()).push("({now}, ").bind(millis(Some(written))).push(")");
}

fn millis<'a>(millis: Option<u64>) -> Argument<'a> {
    Argument::Int(millis.map(|millis| i64::try_from(millis).unwrap_or(i64::MAX)))
}

/// A write id as the table has it.
pub(crate) fn signed(write_id: u64) -> i64 {
    write_id.cast_signed()
}
