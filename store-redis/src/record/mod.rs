//! Entries in Redis: their keys, their bytes and the scripts that compare them.

pub(crate) mod layout;
pub(crate) mod namespace;
pub(crate) mod scripts;
