//! Installs the triggers by which a table announces its changes.

use std::time::Duration;

use cache_core::{Error, ErrorKind, Result};

use crate::{
    database::{Database, Mode, Session, Work},
    dialect::{postgres, statement::Statement},
    table::rows::Rows,
};

/// Checks that the table announces its changes. Installs the triggers first if they are missing and
/// `create` is set.
///
/// # Errors
///
/// Returns an error of kind `Backend` if the triggers are missing.
pub(crate) async fn prepare(database: &Database, timeout: Duration, rows: &Rows, create: bool) -> Result<()> {
    let is_ready = database.run(timeout, &Inspect(rows)).await?;
    if !is_ready && create {
        return database.run(timeout, &Install(rows)).await;
    }
    if is_ready { Ok(()) } else { Err(missing()) }
}

/// Returns the error for a table whose triggers are missing, disabled or changed.
pub(super) fn missing() -> Error {
    Error::new(
        ErrorKind::Backend,
        "the triggers that announce the changes of the table are missing or disabled; install them with \
         .create_table() and .announce_changes() on the builder or the statements in the README of store-sql",
    )
}

/// Determines whether the table has all triggers.
struct Inspect<'a>(&'a Rows);

impl Work for Inspect<'_> {
    type Output = bool;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<bool> {
        let mut query = Statement::new(self.0.dialect.syntax());
        let announcers = postgres::announcers(&self.0.table);
        query.push("SELECT (").push(&announcers).push(" IS NOT NULL)::int::bigint");
        Ok(session.number(&query).await? == 1)
    }
}

struct Install<'a>(&'a Rows);

impl Work for Install<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Transaction
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        let table = &self.0.table;
        // Several processes may do this at once. Each waits here, and the first installs them.
        session.run(&postgres::lock_announcers(table)).await?;
        if !Inspect(self.0).run(session).await? {
            session.run(&postgres::install_announcers(table)).await?;
        }
        Ok(())
    }
}
