//! The replies of Redis as values. No type of the driver leaves the crate.

use cache_core::Result;
use redis::Value;

use super::error::{rejected, unexpected};

/// Returns the value, or the error that the server answered with.
pub(crate) fn check(value: Value) -> Result<Value> {
    match value {
        Value::ServerError(error) => Err(rejected(&error)),
        value => Ok(value),
    }
}

/// Parses a reply of bytes, `None` for nil.
pub(crate) fn bytes(value: Value) -> Result<Option<Vec<u8>>> {
    match check(value)? {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(unexpected()),
    }
}

/// Parses a reply that is an integer.
pub(crate) fn integer(value: Value) -> Result<i64> {
    match check(value)? {
        Value::Int(number) => Ok(number),
        _ => Err(unexpected()),
    }
}

/// Parses a reply that is an array of `N` replies.
pub(crate) fn array<const N: usize>(value: Value) -> Result<[Value; N]> {
    match check(value)? {
        Value::Array(values) => values.try_into().map_err(|_| unexpected()),
        _ => Err(unexpected()),
    }
}

/// Parses the reply to TIME. Returns Unix microseconds.
pub(super) fn unix_micros(reply: Value) -> Result<u64> {
    let [seconds, micros] = array(reply)?.map(|part| {
        let digits = bytes(part)?.ok_or_else(unexpected)?;
        str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(unexpected)
    });
    Ok(seconds?.saturating_mul(1_000_000).saturating_add(micros?))
}

/// Returns a field of the reply to INFO, or `None` if the reply is an error or lacks the field.
pub(super) fn info_field(reply: &Value, name: &str) -> Option<String> {
    text(reply)?.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

/// Returns a field of a reply of names and texts, in either protocol.
pub(super) fn field(reply: &Value, name: &str) -> Option<String> {
    match reply {
        Value::Map(fields) => fields.iter().find(|(field, _)| is(field, name)).and_then(|(_, value)| text(value)),
        Value::Array(parts) => {
            let mut pairs = parts.chunks_exact(2);
            pairs.find(|pair| is(&pair[0], name)).and_then(|pair| text(&pair[1]))
        }
        _ => None,
    }
}

/// Returns the text of a reply.
pub(super) fn text(reply: &Value) -> Option<String> {
    match reply {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

fn is(reply: &Value, name: &str) -> bool {
    text(reply).is_some_and(|text| text == name)
}

#[cfg(test)]
mod tests {
    use cache_core::ErrorKind;

    use super::*;

    #[test]
    fn replies_of_any_other_shape_are_errors() {
        for value in [Value::Okay, Value::Boolean(true), Value::Map(vec![]), Value::Array(vec![Value::Nil])] {
            assert_eq!(bytes(value.clone()).unwrap_err().kind(), ErrorKind::Backend);
            assert_eq!(integer(value.clone()).unwrap_err().kind(), ErrorKind::Backend);
            assert_eq!(array::<2>(value).unwrap_err().kind(), ErrorKind::Backend);
        }
    }

    #[test]
    fn a_field_is_found_in_both_protocols() {
        let text = "# Server\r\nredis_version:7.0.15\r\nrun_id:0123abc\r\ntcp_port:6379\r\n";
        assert_eq!(info_field(&Value::BulkString(text.into()), "run_id:").as_deref(), Some("0123abc"));
        let verbatim = Value::VerbatimString { format: redis::VerbatimFormat::Text, text: text.to_owned() };
        assert_eq!(info_field(&verbatim, "run_id:").as_deref(), Some("0123abc"));
        assert_eq!(info_field(&Value::BulkString(b"# Server\r\n".into()), "run_id:"), None);
        assert_eq!(info_field(&Value::Nil, "run_id:"), None);
    }
}
