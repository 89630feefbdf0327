//! The statements that insert rows.

use super::rows::{AHEAD_MILLIS, NewRow, Rows, millis, push_written, signed};
use crate::dialect::statement::{Argument, Statement};

/// The table's columns, in the order in which rows are inserted.
const COLUMNS: &str = "(namespace, id, full_key, value, write_id, written_at, expires_at)";

/// The largest number of rows that a statement inserts.
const MAX_ROWS: usize = 256;

/// The largest number of bytes of values that a statement inserts, unless a single row has more:
/// MariaDB accepts statements of 16 MiB.
const MAX_BYTES: usize = 4 << 20;

impl Rows {
    /// Inserts rows, with as many statements as needed. Each ends with `tail`.
    ///
    /// Each number of rows is another text to prepare. There are few texts, so that a connection
    /// keeps them all prepared: closing one costs MySQL 40 ms, because it waits for an
    /// acknowledgement.
    pub(crate) fn insert<'a>(&'a self, rows: &[NewRow<'a>], tail: &str) -> Vec<Statement<'a>> {
        let latest = format!("{{now}} + {AHEAD_MILLIS}");
        let tail = tail.replace("{table}", &self.quoted_table).replace("{latest}", &latest);
        let tail = tail.replace("{greatest}", self.dialect.syntax().greatest);
        let mut statements = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take(MAX_ROWS).take_while(|row| {
                bytes += row.value.map_or(0, <[u8]>::len);
                bytes <= MAX_BYTES
            });
            let (some, others) = rest.split_at(two_highest_bits(fitting.count().max(1)));
            let is_selected = some.len() > 1 && self.dialect.syntax().selects_values;
            let mut insert = if is_selected { self.insert_selected(some) } else { self.insert_values(some) };
            insert.push(&tail);
            statements.push(insert);
            rest = others;
        }
        statements
    }

    fn insert_into(&self) -> Statement<'_> {
        let mut insert = self.statement("INSERT INTO ");
        insert.push(" ").push(COLUMNS);
        insert
    }

    /// Inserts these rows.
    fn insert_values<'a>(&'a self, rows: &[NewRow<'a>]) -> Statement<'a> {
        let mut insert = self.insert_into();
        insert.push(" VALUES ");
        for (at, row) in rows.iter().enumerate() {
            insert.push(if at == 0 { "(" } else { ", (" }).bind(Argument::Text(&self.namespace)).push(", ");
            bind_record(&mut insert, row);
            insert.push(", ");
            push_written(&mut insert, row);
            insert.push(", ");
            if insert.syntax().selects_values {
                push_written(&mut insert, row);
            } else {
                insert.push("written_at");
            }
            insert.push(" + ").bind(millis(row.millis)).push(")");
        }
        insert
    }

    /// Inserts the rows of a table of values, so that the clock is read once for all of them.
    fn insert_selected<'a>(&'a self, rows: &[NewRow<'a>]) -> Statement<'a> {
        let mut insert = self.insert_into();
        let least = insert.syntax().least;
        let written = format!("{least}(given.now, COALESCE(column5, given.now))");
        insert.push(" SELECT given.namespace, column1, column2, column3, column4, ");
        insert.push(&format!("{written}, {written} + column6 FROM (SELECT "));
        insert.bind(Argument::Text(&self.namespace)).push(" AS namespace, {now} AS now) AS given, (VALUES ");
        for (at, row) in rows.iter().enumerate() {
            insert.push(if at == 0 { "(" } else { ", (" });
            bind_record(&mut insert, row);
            insert.push(", ").bind(millis(row.written)).push(", ").bind(millis(row.millis)).push(")");
        }
        // Without the condition, SQLite takes the ON of the tail for that of a join.
        insert.push(") AS new WHERE TRUE");
        insert
    }
}

/// Binds the id, the full key, the value and the write id of a row.
fn bind_record<'a>(insert: &mut Statement<'a>, row: &NewRow<'a>) {
    insert.bind(Argument::Bytes(Some(&row.identity.id))).push(", ");
    insert.bind(Argument::Bytes(row.identity.full_key.as_deref())).push(", ");
    insert.bind(Argument::Bytes(row.value)).push(", ");
    insert.bind(Argument::Int(Some(signed(row.write_id))));
}

/// Returns the number without all bits but the two highest.
fn two_highest_bits(number: usize) -> usize {
    let highest = 1 << number.ilog2();
    number & (highest | highest >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_divided_into_few_parts() {
        let parts = |mut number: usize| {
            let mut parts = Vec::new();
            while number > 0 {
                parts.push(two_highest_bits(number));
                number -= two_highest_bits(number);
            }
            parts
        };
        assert_eq!(parts(1), [1]);
        assert_eq!(parts(100), [96, 4]);
        assert_eq!(parts(255), [192, 48, 12, 3]);
        assert_eq!(parts(256), [256]);
    }
}
