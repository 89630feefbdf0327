//! For authors of backends on a server: what those that keep records there have in common.

mod namespace;
mod server_clock;
pub mod write_id;

pub use self::{namespace::check_namespace, server_clock::ServerClock};
