//! Errors of databases as messages.

use sqlx::error::{DatabaseError, ErrorKind};

use super::statements::Dialect;
use crate::error::Error;

/// Returns the error for a URL that the driver rejects.
pub(super) fn invalid_url(dialect: &Dialect) -> Error {
    Error::usage(format!(
        "the URL of {} is invalid; write mysql://user:password@host:port/database, \
         postgres://user:password@host:port/database or sqlite://path/of/the/file, and percent-encode special characters",
        dialect.title
    ))
}

/// Returns the error of a connection that could not be set up.
pub(super) fn connecting(dialect: &Dialect, error: &sqlx::Error) -> Error {
    let title = dialect.title;
    match error {
        // The message may quote the configuration.
        sqlx::Error::Configuration(cause) if cause.to_string().starts_with("RSA auth backend disabled") => {
            Error::failed(format!("this user of {title} can log in only over TLS; the URL must not disable it"))
        }
        sqlx::Error::Configuration(_) => Error::failed(format!(
            "the configuration of the connection to {title} is invalid: check certificates, user and password"
        )),
        sqlx::Error::Io(cause) if cause.kind() == std::io::ErrorKind::ConnectionRefused => {
            Error::failed(format!("{title} refused the connection; check that it is running at this address"))
        }
        error => failed(dialect, error),
    }
}

/// Returns the error of a request.
pub(super) fn failed(dialect: &Dialect, error: &sqlx::Error) -> Error {
    let title = dialect.title;
    Error::failed(match error {
        sqlx::Error::Database(error) => return of_database(title, &**error),
        sqlx::Error::Io(cause) => format!("the connection to {title} failed: {cause}"),
        sqlx::Error::Tls(cause) => format!("the TLS handshake with {title} failed: {cause}"),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) => OTHER_TABLE.to_owned(),
        _ => format!("the driver of {title} failed"),
    })
}

const OTHER_TABLE: &str =
    "the table has other columns than a table of store-sql; name the table of the cache by --table";

/// The part of an error of the database that says what is wrong. The messages of denied logins name
/// the user, and those of wrong values quote them.
fn of_database(title: &str, error: &dyn DatabaseError) -> Error {
    let code = code(error);
    let text = error.message();
    Error::failed(match &*code {
        "1146" | "42P01" => NO_TABLE.to_owned(),
        "1" if text.starts_with("no such table") => NO_TABLE.to_owned(),
        "1054" | "42703" | "42883" | "42804" | "42846" => OTHER_TABLE.to_owned(),
        "1" if text.starts_with("no such column") => OTHER_TABLE.to_owned(),
        "1044" | "1045" | "1130" | "1142" | "1143" | "1698" | "42501" => denied(title),
        code if code.starts_with("28") => denied(title),
        "1049" | "3D000" => format!("{title} has no database of this name"),
        "14" => "SQLite cannot open the file: it must exist, and this user must be permitted to read it and, unless a \
                 store is connected, to write to its folder, where SQLite keeps the files -wal and -shm"
            .to_owned(),
        "26" => "the file is not a SQLite database".to_owned(),
        "57014" => format!("{title} did not answer in time; check its load, or raise --timeout"),
        _ if error.kind() == ErrorKind::Other => format!("{title} answered with error {code}: {text}"),
        _ => format!("{title} answered with error {code}"),
    })
}

const NO_TABLE: &str = "the table does not exist in this database; name the table of the cache by --table";

fn denied(title: &str) -> String {
    format!("{title} refused the user, the password or the permission; SELECT on the table suffices")
}

/// Returns the number of the error in MySQL, its code in PostgreSQL, and its primary code in SQLite.
fn code(error: &dyn DatabaseError) -> String {
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return error.number().to_string();
    }
    let code = error.code().unwrap_or_default();
    #[cfg(feature = "sqlite")]
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // The lower byte is the kind; the other bytes are details.
        return code.parse::<u32>().map_or(code.into_owned(), |code| (code & 0xff).to_string());
    }
    code.into_owned()
}
