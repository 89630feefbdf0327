//! For tests of backends.

mod map;

pub use self::map::MapStore;
