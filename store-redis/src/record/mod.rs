//! How entries are stored in Redis: keys, bytes and the scripts that compare them.

pub(crate) mod layout;
pub(crate) mod namespace;
pub(crate) mod scripts;
