//! Names of namespaces.

use crate::{Error, ErrorKind, Result};

/// Whether a namespace can be used: 1 to 64 characters of `A-Z a-z 0-9 _ . - /`, the same for all backends.
///
/// # Errors
///
/// Of kind `InvalidInput` if it cannot.
pub fn check_namespace(name: &str) -> Result<()> {
    if name.is_empty() {
        let message = "the store has no namespace; name one, such as .namespace(\"users\")";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
    if name.len() > 64 || !name.bytes().all(allowed) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "the namespace {name:?} cannot be used: it must be 1 to 64 characters of A-Z a-z 0-9 _ . - /. A ':' ends \
                 the namespace in the keys of some stores, so one inside would let namespaces overlap; '*', '?', '[' and \
                 '\\' are patterns there"
            ),
        ));
    }
    Ok(())
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_overlap_or_match_others_are_refused() {
        for name in ["", "a:b", "a*", "a?", "[a]", "a\\b", "a b", "ü", &"a".repeat(65)] {
            assert_eq!(check_namespace(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        check_namespace(&"a".repeat(64)).unwrap();
        check_namespace("a/b.c-D_9").unwrap();
    }
}
