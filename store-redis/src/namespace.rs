//! The namespace: which keys of the database are this store's.

use cache_core::{Error, ErrorKind, Key, Result};

/// The prefix of every key of a store, `users:`.
#[derive(Debug)]
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
        if name.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the store has no namespace; name one, such as .namespace(\"users\")",
            ));
        }
        if name.len() > 64 || !name.bytes().all(allowed) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "the namespace {name:?} cannot be used: it must be 1 to 64 characters of A-Z a-z 0-9 _ . - /. A ':' ends \
                     the namespace in a key, so one inside would let namespaces overlap; '*', '?', '[' and '\\' are \
                     patterns to the SCAN that clears it"
                ),
            ));
        }
        Ok(Self(format!("{name}:")))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0[..self.0.len() - 1]
    }

    /// The key in Redis: the prefix and the key's bytes as they are.
    pub(crate) fn key(&self, key: &Key) -> Vec<u8> {
        [self.0.as_bytes(), key.as_bytes()].concat()
    }

    /// The pattern of all keys. No character of a namespace has a meaning in it.
    pub(crate) fn pattern(&self) -> String {
        format!("{}*", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No two pairs of a namespace and a key share a key in Redis, whatever bytes the keys have.
        #[test]
        fn namespaces_do_not_overlap(
            a in ("[a-b/.-]{1,3}", "[a-b:/.-]{1,4}"),
            b in ("[a-b/.-]{1,3}", "[a-b:/.-]{1,4}"),
        ) {
            let stored = |(name, key): &(String, String)| Namespace::new(name).unwrap().key(&Key::new(key).unwrap());
            prop_assert_eq!(a == b, stored(&a) == stored(&b));
        }
    }

    #[test]
    fn keys_stay_readable_and_bytes_stay_as_they_are() {
        let namespace = Namespace::new("a/b.c-D_9").unwrap();
        assert_eq!(namespace.key(&Key::new(&42).unwrap()), b"a/b.c-D_9:42");
        assert_eq!(namespace.key(&Key::new(&b"\xff*".to_vec()).unwrap()), b"a/b.c-D_9:\xff*");
        assert_eq!(namespace.pattern(), "a/b.c-D_9:*");
        assert_eq!(namespace.name(), "a/b.c-D_9");
    }

    #[test]
    fn names_that_could_overlap_or_match_others_are_refused() {
        for name in ["", "a:b", "a*", "a?", "[a]", "a\\b", "a b", "ü", &"a".repeat(65)] {
            assert_eq!(Namespace::new(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        assert_eq!(Namespace::new(&"a".repeat(64)).unwrap().name(), "a".repeat(64));
    }
}
