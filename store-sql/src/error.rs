//! What went wrong, in the words of this crate.

use std::{borrow::Cow, path::Path, time::Duration};

use cache_core::{Error, ErrorKind};

use crate::{dialect::Dialect, unreached};

/// What an error of a database means here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It stood in the way of another transaction and was rolled back.
    Conflict,
    /// The connection is gone.
    Lost,
    /// The database takes no connection now.
    Unavailable,
    /// Its file cannot be opened.
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "the other databases are servers"))]
    Unopened,
    /// The database gave up for want of time.
    Late,
    /// No room.
    Full,
    /// No writes.
    ReadOnly,
    /// No permission.
    Denied,
    /// There is no such table.
    NoTable,
    /// There is such a table already.
    TableExists,
    /// The table has other columns or keys.
    Shape,
    /// Anything else.
    Other,
}

impl Fault {
    pub(crate) fn of(dialect: &dyn Dialect, error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => dialect.fault(&**error),
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => Self::Lost,
            sqlx::Error::PoolTimedOut => Self::Late,
            sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => Self::Unavailable,
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => Self::Shape,
            _ => Self::Other,
        }
    }
}

/// The error of a call that failed so. `file` is where a SQLite is.
pub(crate) fn failed(dialect: &dyn Dialect, file: Option<&Path>, error: &sqlx::Error) -> Error {
    let title = dialect.title();
    let (kind, message): (_, Cow<'static, str>) = match Fault::of(dialect, error) {
        Fault::Conflict => (
            ErrorKind::Unavailable,
            format!("{title} rolled the transaction back again and again, for others that write the same rows").into(),
        ),
        Fault::Lost => (ErrorKind::Unavailable, format!("the connection to {title} was lost or refused").into()),
        Fault::Unavailable => (ErrorKind::Unavailable, format!("{title} takes no connection now").into()),
        Fault::Unopened => (ErrorKind::Unavailable, unreached::unopened(file).into()),
        Fault::Late => (ErrorKind::Timeout, format!("{title} had no time or no connection for the call").into()),
        Fault::Full => (
            ErrorKind::Full,
            format!("{title} has no room for the value: look at its disk, and at its limit for the size of one value")
                .into(),
        ),
        Fault::ReadOnly => (ErrorKind::ReadOnly, format!("this {title} is read-only; connect to the primary").into()),
        Fault::Denied => {
            // Who was refused is in the message of the database.
            let message = format!("{title} refused the user, the password or the permission");
            return Error::new(ErrorKind::Denied, message);
        }
        Fault::NoTable => return no_table(shown(dialect, error)),
        Fault::Shape => return misfit(shown(dialect, error)),
        Fault::TableExists | Fault::Other => (ErrorKind::Backend, format!("{title} answered with an error").into()),
    };
    let message = unreached::remedy(dialect, error).map_or(message, Cow::from);
    Error::with_source(kind, message, shown(dialect, error))
}

/// There is no table.
pub(crate) fn no_table(source: String) -> Error {
    Error::with_source(
        ErrorKind::Backend,
        "the table does not exist: create it by .create_table() on the builder, or by the CREATE TABLE in the README of \
         store-sql",
        source,
    )
}

/// The table has another shape.
pub(crate) fn misfit(source: String) -> Error {
    Error::with_source(
        ErrorKind::Backend,
        "the table has other columns or another primary key than this store needs: name another by .table(), or create it \
         anew by .create_table() on the builder or the CREATE TABLE in the README of store-sql",
        source,
    )
}

/// What of an error may be shown.
fn shown(dialect: &dyn Dialect, error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => dialect.shown(&**error),
        // They may quote what was configured.
        sqlx::Error::Configuration(_) => "the configuration cannot be used".to_owned(),
        error => error.to_string(),
    }
}

/// The deadline has passed.
pub(crate) fn late(dialect: &dyn Dialect, deadline: Duration, waiting: bool) -> Error {
    let title = dialect.title();
    let message = if waiting {
        format!(
            "no connection to {title} became free or came about within {deadline:?}; raise max_connections if they are busy"
        )
    } else {
        format!("{title} did not answer within {deadline:?}")
    };
    Error::new(ErrorKind::Timeout, message)
}

/// Something that cannot be.
pub(crate) fn unexpected() -> Error {
    Error::new(ErrorKind::Backend, "the database answered with fewer rows than there were questions")
}
