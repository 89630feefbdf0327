//! Errors as messages for the user. No message shows a URL, a credential or a value.

use std::fmt;

/// The result of a step.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why there is no report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    message: String,
    is_usage: bool,
}

impl Error {
    /// Creates the error of wrong arguments.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_usage: true }
    }

    /// Creates the error of a backend, or of a key that it does not have.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_usage: false }
    }

    /// Returns the exit code of the program: 2 for wrong arguments, else 1.
    pub fn exit_code(&self) -> u8 {
        if self.is_usage { 2 } else { 1 }
    }
}

impl From<cache_core::Error> for Error {
    fn from(error: cache_core::Error) -> Self {
        Self::usage(error.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
