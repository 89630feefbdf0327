//! Checks the table when a store connects, and creates it.

use std::time::Duration;

use cache_core::Result;

use super::rows::Rows;
use crate::{
    database::{Database, Mode, Session, Work, error},
    dialect::{fault::Fault, statement::Statement},
};

/// The state of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TableState {
    Ready,
    Missing,
    SchemaMismatch,
}

/// Checks the table, and creates it if it is missing and `create` is set.
///
/// # Errors
///
/// Returns an error of kind `Backend` if the table is missing or has another schema.
pub(crate) async fn prepare(database: &Database, timeout: Duration, rows: &Rows, create: bool) -> Result<()> {
    let mut state = database.run(timeout, &Inspect(rows)).await?;
    if state == TableState::Missing && create {
        database.run(timeout, &Create(rows)).await?;
        state = database.run(timeout, &Inspect(rows)).await?;
    }
    match state {
        TableState::Ready => Ok(()),
        TableState::Missing => Err(error::no_table("the check of the table on connecting did not find it".to_owned())),
        TableState::SchemaMismatch => Err(error::schema_mismatch(
            "the primary key is not (namespace, id) with binary columns for 64 and 255 bytes".to_owned(),
        )),
    }
}

/// Determines the state of the table.
struct Inspect<'a>(&'a Rows);

impl Work for Inspect<'_> {
    type Output = TableState;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<TableState> {
        let Rows { dialect, .. } = *self.0;
        // Together, the statements of `get` and `lease` read all columns.
        for select in [self.0.select(&[b"\0"]), self.0.select_ids(&[b"\0"])] {
            match session.rows(&select).await {
                Ok(_) => {}
                Err(error) if dialect.classify(&error) == Fault::NoTable => return Ok(TableState::Missing),
                Err(error) => return Err(error),
            }
        }
        let Some(find_mismatch) = dialect.find_schema_mismatch(&self.0.table) else { return Ok(TableState::Ready) };
        let mut query = Statement::new(dialect.syntax());
        query.push(&find_mismatch);
        let is_ready = session.rows(&query).await?.is_empty();
        Ok(if is_ready { TableState::Ready } else { TableState::SchemaMismatch })
    }
}

struct Create<'a>(&'a Rows);

impl Work for Create<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Single
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        match session.run(&self.0.dialect.create(&self.0.table)).await {
            // Another process has created it meanwhile.
            Err(error) if self.0.dialect.classify(&error) == Fault::TableExists => Ok(()),
            created => created,
        }
    }
}
