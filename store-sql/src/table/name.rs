//! Names of tables.

use cache_core::{Error, ErrorKind, Result};

/// Checks the name of a table: no character of a valid name is special inside quotes, in any of the
/// databases.
///
/// # Errors
///
/// Returns an error of kind `InvalidInput` if the name is invalid.
pub(crate) fn check_name(name: &str, max_len: usize) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if (1..=max_len).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    let message = format!("the table name {name:?} is invalid: it must be 1 to {max_len} characters of A-Z a-z 0-9 _");
    Err(Error::new(ErrorKind::InvalidInput, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_special_characters_of_sql_are_refused() {
        for name in ["", "a b", "a`b", "a\"b", "a;b", "a.b", "a-b", "ä", "a\0", &"a".repeat(65)] {
            assert_eq!(check_name(name, 64).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        for name in ["cache_entries", "SELECT", "1", &"a".repeat(64)] {
            check_name(name, 64).unwrap();
        }
    }
}
