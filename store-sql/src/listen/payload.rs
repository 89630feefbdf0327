//! The payloads of notifications. Any user of the database can send them.

use cache_core::{Invalidation, InvalidationSink};

/// The payload for "any key".
const EVERYTHING: &str = "*";

/// Applies a payload of the triggers on a table of entries: `namespace:key` for each changed key,
/// separated by spaces. The key is hexadecimal, or `*` for all keys of the namespace. A payload of
/// `*` stands for all keys of all namespaces.
///
/// Each namespace of this crate is free of spaces and colons. So other namespaces, which other
/// programs may use in the table, do not change how those of this crate are read.
pub(super) fn apply_of_table(payload: &str, namespace: &str, sink: &dyn InvalidationSink) {
    if payload == EVERYTHING {
        return sink.apply(Invalidation::Everything);
    }
    for change in payload.split(' ') {
        match change.rsplit_once(':') {
            Some((of, _)) if of != namespace => {}
            Some((_, EVERYTHING)) => sink.apply(Invalidation::Everything),
            Some((_, key)) => match decode(key) {
                Some(key) => sink.apply(Invalidation::Key(&key)),
                None => sink.apply(Invalidation::Unknown),
            },
            None => sink.apply(Invalidation::Unknown),
        }
    }
}

/// Applies a payload of the application's own triggers: one key on each line. An empty payload and
/// the payload `*` stand for all keys.
pub(super) fn apply_of_application(payload: &str, sink: &dyn InvalidationSink) {
    if payload.is_empty() || payload == EVERYTHING {
        return sink.apply(Invalidation::Everything);
    }
    // Not `lines`, which would also remove a carriage return at the end of a key.
    payload.split('\n').for_each(|key| sink.apply(Invalidation::Key(key.as_bytes())));
}

/// Returns the bytes of hexadecimal digits, `None` if there are none or something else.
fn decode(digits: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorded(Mutex<Vec<String>>);

    impl InvalidationSink for Recorded {
        fn apply(&self, notice: Invalidation<'_>) {
            let text = match notice {
                Invalidation::Key(key) => String::from_utf8_lossy(key).into_owned(),
                other => format!("{other:?}"),
            };
            self.0.lock().unwrap().push(text);
        }
    }

    fn of_table(payload: &str) -> Vec<String> {
        let sink = Recorded::default();
        apply_of_table(payload, "users", &sink);
        sink.0.into_inner().unwrap()
    }

    fn of_application(payload: &str) -> Vec<String> {
        let sink = Recorded::default();
        apply_of_application(payload, &sink);
        sink.0.into_inner().unwrap()
    }

    #[test]
    fn keys_of_the_namespace_are_announced() {
        assert_eq!(of_table("users:616461"), ["ada"]);
        assert_eq!(of_table("users:61 orders:62 users:63"), ["a", "c"]);
        assert_eq!(of_table("orders:* users:*"), ["Everything"]);
        assert_eq!(of_table("orders:*"), [""; 0]);
        assert_eq!(of_table("*"), ["Everything"]);
    }

    #[test]
    fn other_namespaces_hide_no_key() {
        assert_eq!(of_table("strange name:62 users:61"), ["Unknown", "a"]);
        assert_eq!(of_table("a:b:62 users:61 \u{1f980}:63"), ["a"]);
    }

    #[test]
    fn other_payloads_are_unknown() {
        for payload in ["", "users", "users:", "users:6", "users:6g", "users:+6", "users:6\u{e9}", "users:**", "**"] {
            assert_eq!(of_table(payload), ["Unknown"], "{payload:?}");
        }
        assert_eq!(of_table(" "), ["Unknown", "Unknown"]);
    }

    #[test]
    fn no_payload_panics() {
        let alphabet = ["users", ":", " ", "*", "6", "f", "g", "\u{e9}", "\n", "\0"];
        let count = alphabet.len();
        for number in 0..count.pow(5) {
            let payload: String = (0..5).map(|place| alphabet[number / count.pow(place) % count]).collect();
            assert!(!of_table(&payload).is_empty() || payload.contains(':'), "{payload:?}");
            assert!(!of_application(&payload).is_empty(), "{payload:?}");
        }
    }

    #[test]
    fn an_application_announces_one_key_on_each_line() {
        assert_eq!(of_application("42"), ["42"]);
        assert_eq!(of_application("a:1\nb *\r"), ["a:1", "b *\r"]);
        assert_eq!(of_application("*"), ["Everything"]);
        assert_eq!(of_application(""), ["Everything"]);
    }
}
