//! Errors of databases as errors of the cache.

use std::{borrow::Cow, path::Path, time::Duration};

use cache_core::{Error, ErrorKind};

use super::hint;
use crate::dialect::{Dialect, fault::Fault};

/// Returns the error of a failed call. `file` is the file of a SQLite database.
pub(crate) fn failed(dialect: &dyn Dialect, file: Option<&Path>, error: &sqlx::Error) -> Error {
    let title = dialect.title();
    let (kind, message): (_, Cow<'static, str>) = match dialect.classify(error) {
        Fault::Conflict => (
            ErrorKind::Unavailable,
            format!("{title} rolled the transaction back repeatedly, in favour of others that write the same rows")
                .into(),
        ),
        Fault::Lost => (ErrorKind::Unavailable, format!("the connection to {title} was lost or refused").into()),
        Fault::Unavailable => (ErrorKind::Unavailable, format!("{title} accepts no connections now").into()),
        Fault::CannotOpen => (ErrorKind::Unavailable, hint::for_file(file).into()),
        Fault::TimedOut => (ErrorKind::Timeout, format!("{title} ran out of time or connections for the call").into()),
        Fault::Full => (
            ErrorKind::Full,
            format!("{title} has no room for the value; check its disk and its limit for the size of a value").into(),
        ),
        Fault::ReadOnly => (ErrorKind::ReadOnly, format!("this {title} is read-only; connect to the primary").into()),
        Fault::Denied => {
            // The message of the database names the user.
            let message = format!("{title} refused the user, the password or the permission");
            return Error::new(ErrorKind::Denied, message);
        }
        Fault::NoTable => return no_table(describe(dialect, error)),
        Fault::SchemaMismatch => return schema_mismatch(describe(dialect, error)),
        Fault::TableExists | Fault::Other => (ErrorKind::Backend, format!("{title} answered with an error").into()),
    };
    let message = hint::for_error(dialect, error).map_or(message, Cow::from);
    Error::with_source(kind, message, describe(dialect, error))
}

/// Returns the error for a missing table.
pub(crate) fn no_table(source: String) -> Error {
    Error::with_source(
        ErrorKind::Backend,
        "the table does not exist; create it with .create_table() on the builder or the CREATE TABLE in the README of \
         store-sql",
        source,
    )
}

/// Returns the error for a table with another schema.
pub(crate) fn schema_mismatch(source: String) -> Error {
    Error::with_source(
        ErrorKind::Backend,
        "the table has other columns or another primary key than this store needs; name another table with .table(), \
         or recreate it with .create_table() on the builder or the CREATE TABLE in the README of store-sql",
        source,
    )
}

/// Returns the part of an error that may be shown.
fn describe(dialect: &dyn Dialect, error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => dialect.describe(&**error),
        // The message may quote the configuration.
        sqlx::Error::Configuration(_) => "the configuration is invalid".to_owned(),
        error => error.to_string(),
    }
}

/// Returns the error of a call that timed out. `waiting` tells whether it still waited for a
/// connection.
pub(crate) fn timed_out(dialect: &dyn Dialect, timeout: Duration, waiting: bool) -> Error {
    let title = dialect.title();
    let message = if waiting {
        format!("no free or new connection to {title} within {timeout:?}; raise max_connections if all are busy")
    } else {
        format!("{title} did not answer within {timeout:?}; check its load and locks, or raise the timeout")
    };
    Error::new(ErrorKind::Timeout, message)
}
