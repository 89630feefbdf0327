//! For authors of backends on a server: what those that keep records there have in common.

mod server_clock;
pub mod write_id;

pub use self::server_clock::ServerClock;
