//! Reports, as text and as JSON.

mod key;
mod namespace;
mod payload;
mod show;

pub(crate) use self::{key::Key, namespace::Namespace, payload::Payload};
