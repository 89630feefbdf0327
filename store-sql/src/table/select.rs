//! Reads the rows of many keys.

use std::collections::HashMap;

use super::{
    identity::Identity,
    rows::{MAX_IDS, Rows},
};
use crate::{
    database::{Mode, Session, Work},
    dialect::statement::{Row, Statement},
};

/// Rows by id.
pub(crate) type Found = HashMap<Vec<u8>, Row>;

/// A method of [`Rows`] that returns the statement for some ids.
pub(crate) type SelectFn = for<'a> fn(&'a Rows, &[&'a [u8]]) -> Statement<'a>;

/// Reads the rows of these keys.
pub(crate) struct Select<'a> {
    pub(crate) rows: &'a Rows,
    pub(crate) identities: &'a [Identity],
    pub(crate) statement: SelectFn,
}

impl Work for Select<'_> {
    type Output = Found;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Found> {
        let mut found = Found::new();
        let ids = self.identities.iter().map(|identity| &identity.id[..]);
        select_into(&mut found, session, self.rows, &ids.collect::<Vec<_>>(), self.statement).await?;
        Ok(found)
    }
}

/// Adds the rows with these ids to `found`, with as many statements as needed.
pub(crate) async fn select_into(
    found: &mut Found,
    session: &mut Session,
    rows: &Rows,
    ids: &[&[u8]],
    statement: SelectFn,
) -> sqlx::Result<()> {
    for some in ids.chunks(MAX_IDS) {
        collect(found, session.rows(&statement(rows, some)).await?);
    }
    Ok(())
}

pub(crate) fn collect(found: &mut Found, rows: Vec<Row>) {
    found.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
}
