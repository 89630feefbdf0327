//! The namespace, which is the prefix of a store's keys.

use cache_core::{Key, Result, backend::check_namespace};

/// The prefix of every key of a store, `users:`.
#[derive(Debug)]
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new(name: &str) -> Result<Self> {
        check_namespace(name)?;
        Ok(Self(format!("{name}:")))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0[..self.0.len() - 1]
    }

    /// Returns the prefix of all keys.
    pub(crate) fn prefix(&self) -> &str {
        &self.0
    }

    /// Returns the key in Redis: the prefix and the key's bytes, unchanged.
    pub(crate) fn key(&self, key: &Key) -> Vec<u8> {
        [self.0.as_bytes(), key.as_bytes()].concat()
    }

    /// Returns the pattern of all keys. No character of a namespace is special in it.
    pub(crate) fn pattern(&self) -> String {
        format!("{}*", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No two pairs of a namespace and a key share a key in Redis, whatever bytes the keys
        /// have.
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
}
