//! Classes of errors of databases and drivers.

/// The meaning of an error for the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The transaction conflicted with another one and was rolled back.
    Conflict,
    /// The connection is lost.
    Lost,
    /// The database accepts no connections now.
    Unavailable,
    /// The file of the database cannot be opened.
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "the other databases are servers"))]
    CannotOpen,
    /// The database reported a timeout.
    TimedOut,
    /// There is no room.
    Full,
    /// The database accepts no writes.
    ReadOnly,
    /// The user lacks a permission.
    Denied,
    /// The table does not exist.
    NoTable,
    /// The table exists already.
    TableExists,
    /// The table has other columns or keys.
    SchemaMismatch,
    /// Any other error.
    Other,
}

impl Fault {
    /// Classifies an error that does not come from the database itself.
    pub(super) fn of_driver(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => Self::Lost,
            sqlx::Error::PoolTimedOut => Self::TimedOut,
            sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => Self::Unavailable,
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => Self::SchemaMismatch,
            _ => Self::Other,
        }
    }
}
