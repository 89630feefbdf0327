//! The table: whether it is there and fit, and how it comes about.

use std::time::Duration;

use cache_core::Result;

use crate::{
    call::{Mode, Work},
    database::Database,
    error::{self, Fault},
    pool::Session,
    rows::Rows,
    statement::Statement,
};

/// What the look at a table found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Fit,
    Missing,
    Misfit,
}

/// Looks at the table; creates it if it is missing and that is asked for.
pub(crate) async fn prepare(database: &Database, deadline: Duration, rows: &Rows, create: bool) -> Result<()> {
    let mut found = database.run(deadline, &Look(rows)).await?;
    if found == Found::Missing && create {
        database.run(deadline, &Create(rows)).await?;
        found = database.run(deadline, &Look(rows)).await?;
    }
    match found {
        Found::Fit => Ok(()),
        Found::Missing => Err(error::no_table("it was looked for on connecting".to_owned())),
        Found::Misfit => Err(error::misfit(
            "the primary key is not (namespace, id) with columns that hold 64 and 255 bytes as they are".to_owned(),
        )),
    }
}

struct Look<'a>(&'a Rows);

impl Work for Look<'_> {
    type Output = Found;

    fn mode(&self) -> Mode {
        Mode::Read
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Found> {
        let Rows { dialect, .. } = *self.0;
        // All columns, as `get` reads them and `lease` does.
        for look in [self.0.select(&[b"\0"]), self.0.select_ids(&[b"\0"])] {
            match session.rows(&look).await {
                Ok(_) => {}
                Err(error) if Fault::of(dialect, &error) == Fault::NoTable => return Ok(Found::Missing),
                Err(error) => return Err(error),
            }
        }
        let Some(misfit) = dialect.misfit(&self.0.table) else { return Ok(Found::Fit) };
        let mut query = Statement::new(dialect);
        query.push(&misfit);
        Ok(if session.rows(&query).await?.is_empty() { Found::Fit } else { Found::Misfit })
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
            // Another was quicker.
            Err(error) if Fault::of(self.0.dialect, &error) == Fault::TableExists => Ok(()),
            created => created,
        }
    }
}
