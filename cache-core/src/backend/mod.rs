//! For authors of backends: the key's fingerprint, and the code that several backends share.

mod batch;
mod idle;
mod inspection;
mod lock;
mod memory;
mod row;
mod server_clock;
mod server_time;
mod settings;
mod touch;
pub mod write_id;

pub use self::{
    batch::{only, refused_for_room, with_removal},
    idle::IdleDeadline,
    inspection::Inspection,
    lock::lock,
    memory::{BuildFingerprintHasher, FingerprintHasher, MemorySettings, Weigher},
    row::MemoryRow,
    server_clock::ServerClock,
    server_time::ServerTime,
    settings::{check_namespace, check_time_to_idle, lease_millis, marker_millis},
    touch::touch_by_filling,
};
pub use crate::{
    entry::ETag,
    envelope::{Binding, Content, Description, Envelope, Head, Peeked},
    key::Fingerprint,
    life::Life,
    record::{Opened, Record},
    time::coarse_clock,
};
