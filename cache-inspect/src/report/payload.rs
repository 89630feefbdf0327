//! The payload of a record, as text or hexadecimal digits.

use cache_core::codec;

use super::show;
use crate::{
    examine::{Examined, Held, payload},
    source::Found,
};

/// The beginning of a payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Payload {
    pub(super) shown: Shown,
    /// The bytes that are not shown.
    pub(super) left_out: usize,
}

/// A payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    Json(String),
    Hex(String),
}

impl Payload {
    /// Returns the payload of what was found, at most `limit` bytes of it. It is JSON if the codec of
    /// the record is `json`, or if a value without a record is an object, an array or a string of JSON.
    pub(crate) fn of(found: &Found, examined: &Examined, limit: usize) -> Self {
        let bytes = payload(found, examined);
        let shown = &bytes[..bytes.len().min(limit)];
        if let Some(text) = json(bytes, &examined.held) {
            let length = text.floor_char_boundary(limit);
            return Self { shown: Shown::Json(text[..length].to_owned()), left_out: bytes.len() - length };
        }
        Self { shown: Shown::Hex(show::hex(shown)), left_out: bytes.len() - shown.len() }
    }
}

fn json<'a>(bytes: &'a [u8], held: &Held) -> Option<&'a str> {
    let is_json = match held {
        Held::Record(record) => codec::name_of(record.codec) == Some("json"),
        Held::Plain => bytes.first().is_some_and(|first| b"{[\"".contains(first)),
        _ => false,
    };
    let text = str::from_utf8(bytes).ok().filter(|_| is_json)?;
    serde_json::from_str::<serde_json::Value>(text).ok().map(|_| text)
}
