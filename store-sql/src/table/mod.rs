//! The table that holds the entries: its rows, the statements about them, and the check of its
//! schema.

// From the bottom up: each module uses only those above it.
pub(crate) mod identity;
pub(crate) mod name;

pub(crate) mod rows;

mod insert;

pub(crate) mod select;

pub(crate) mod check;
