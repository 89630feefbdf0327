//! For authors of backends: the key's fingerprint, and the code that backends on a server share.

mod batch;
mod lock;
mod server_clock;
mod settings;
mod touch;
pub mod write_id;

pub use self::{
    batch::{only, refused_for_room, with_removal},
    lock::lock,
    server_clock::ServerClock,
    settings::{check_namespace, lease_millis, marker_millis},
    touch::touch_by_filling,
};
pub use crate::{
    envelope::{Binding, Envelope, Head, Opened, Peeked},
    key::Fingerprint,
    life::Life,
};
