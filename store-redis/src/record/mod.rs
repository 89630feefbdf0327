//! Entries in Redis: their keys, their bytes, the scripts that compare them, and the announcements of
//! their changes.

pub(crate) mod announcement;
pub(crate) mod layout;
pub(crate) mod namespace;
pub(crate) mod scripts;
