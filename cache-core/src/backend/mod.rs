//! For authors of backends: the key's fingerprint, and what backends on a server have in common.

mod namespace;
mod server_clock;
pub mod write_id;

pub use self::{namespace::check_namespace, server_clock::ServerClock};
pub use crate::{
    envelope::{Binding, Envelope, Opened},
    key::Fingerprint,
    life::Life,
};
