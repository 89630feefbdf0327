//! The replies of Redis as values.

use redis::Value;

use super::error;
use crate::error::{Error, Result};

/// Returns the error for a reply of another shape than the command has.
pub(super) fn unexpected() -> Error {
    Error::failed("the reply does not fit the command; check that the address is that of a Redis server")
}

/// Returns `true` for the error of a command on a list, a hash or another type.
pub(super) fn is_wrong_type(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "WRONGTYPE")
}

fn check(value: Value) -> Result<Value> {
    match value {
        Value::ServerError(error) => Err(error::rejected(error.code(), error.details().unwrap_or_default())),
        value => Ok(value),
    }
}

/// Parses a reply of bytes, `None` for nil.
pub(super) fn bytes(value: Value) -> Result<Option<Vec<u8>>> {
    match check(value)? {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(unexpected()),
    }
}

/// Parses a reply that is an integer.
pub(super) fn integer(value: Value) -> Result<i64> {
    match check(value)? {
        Value::Int(number) => Ok(number),
        _ => Err(unexpected()),
    }
}

/// Parses a reply that is an array of `N` replies.
pub(super) fn array<const N: usize>(value: Value) -> Result<[Value; N]> {
    match check(value)? {
        Value::Array(values) => values.try_into().map_err(|_| unexpected()),
        _ => Err(unexpected()),
    }
}

/// Parses the reply to TIME.
pub(super) fn unix_millis(reply: Value) -> Result<u64> {
    let [seconds, micros] = array(reply)?.map(|part| {
        let digits = bytes(part)?.ok_or_else(unexpected)?;
        str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(unexpected)
    });
    Ok(seconds?.saturating_mul(1000).saturating_add(micros? / 1000))
}

/// Returns a field of the reply to INFO, or `None` if the reply is an error or lacks the field.
pub(super) fn info_field(reply: Value, name: &str) -> Option<String> {
    let text = match reply {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}
