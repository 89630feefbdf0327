//! The name of a table.

use cache_core::{Error, ErrorKind, Result};

/// The name of a table, checked: nothing of it means anything inside quotes, whatever the database.
pub(crate) fn table(name: &str, longest: usize) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if (1..=longest).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    let message =
        format!("the table {name:?} cannot be used: its name must be 1 to {longest} characters of A-Z a-z 0-9 _");
    Err(Error::new(ErrorKind::InvalidInput, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_to_sql_are_refused() {
        for name in ["", "a b", "a`b", "a\"b", "a;b", "a.b", "a-b", "ä", "a\0", &"a".repeat(65)] {
            assert_eq!(table(name, 64).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        for name in ["cache_entries", "SELECT", "1", &"a".repeat(64)] {
            table(name, 64).unwrap();
        }
    }
}
