//! The announcements of changes by pub/sub.
//!
//! The server numbers the announcements of a namespace: the script that changes a key also
//! increments a counter and publishes its value. So the numbers on the channel have no holes and
//! their order is that of the changes, whichever process wrote over whichever connection. A hole is
//! a lost announcement. A heartbeat repeats the last number, by which the loss of the last
//! announcement is noticed as well. The counter is lost with the data: after FLUSHALL the numbers
//! start again, from 1 or with a heartbeat from a random number.

use cache_core::Key;

/// A message of the channels. Messages come from anybody who may publish there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Announcement<'a> {
    /// The key has changed.
    Key(u64, &'a [u8]),
    /// Any key may have changed.
    All(u64),
    /// A heartbeat: the number of the last announcement, 0 if there is none, and the id of the
    /// heartbeat.
    Beat(u64, u64),
}

/// The bytes before the kind and the number: the name and the version of the format.
const MAGIC: &[u8] = b"MLI\x01";

impl<'a> Announcement<'a> {
    /// Parses a message, or returns `None` if it is none of this format.
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let (kind, rest) = message.strip_prefix(MAGIC)?.split_first()?;
        let (number, rest) = rest.split_first_chunk()?;
        let number = u64::from_le_bytes(*number);
        match kind {
            b'K' if (1..=Key::MAX_LEN).contains(&rest.len()) => Some(Self::Key(number, rest)),
            b'A' if rest.is_empty() => Some(Self::All(number)),
            b'B' => Some(Self::Beat(number, u64::from_le_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

/// Detects missing announcements by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// The last number. `None` before the first heartbeat.
    last: Option<u64>,
}

impl Numbers {
    /// Notes the number of an announcement. Returns `false` if others before it are missing.
    pub(crate) fn announced(&mut self, number: u64) -> bool {
        // A counter that starts again was lost with an unknown number of changes.
        self.note(number, |last| last.checked_add(1) == Some(number) && number != 1)
    }

    /// Notes the number that a heartbeat repeats. Returns `false` if announcements may be missing: 0
    /// says that there is no counter, so nothing tells whether there was one in between.
    pub(crate) fn repeated(&mut self, number: u64) -> bool {
        self.note(number, |last| number == last && number != 0)
    }

    fn note(&mut self, number: u64, is_next: impl FnOnce(u64) -> bool) -> bool {
        self.last.replace(number).is_none_or(is_next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, number: u64, rest: &[u8]) -> Vec<u8> {
        [MAGIC, &[kind], &number.to_le_bytes(), rest].concat()
    }

    #[test]
    fn messages_of_the_scripts_are_read() {
        assert_eq!(Announcement::parse(b"MLI\x01K\x07\0\0\0\0\0\0\0\xff*"), Some(Announcement::Key(7, b"\xff*")));
        assert_eq!(Announcement::parse(&message(b'A', 1 << 40, b"")), Some(Announcement::All(1 << 40)));
        assert_eq!(Announcement::parse(&message(b'B', 0, &[2, 0, 0, 0, 0, 0, 0, 0])), Some(Announcement::Beat(0, 2)));
    }

    #[test]
    fn anything_else_is_no_announcement() {
        let long = vec![b'k'; Key::MAX_LEN];
        assert!(Announcement::parse(&message(b'K', 1, &long)).is_some());
        for other in [
            b"".to_vec(),
            b"MLI\x01".to_vec(),
            b"MLI\x01K".to_vec(),
            b"MLI\x01K\x07\0\0\0\0\0\0".to_vec(),
            b"MLI\x02A\x07\0\0\0\0\0\0\0".to_vec(),
            message(b'K', 1, b""),
            message(b'K', 1, &[long.as_slice(), b"k"].concat()),
            message(b'A', 1, b"k"),
            message(b'B', 1, b"1234567"),
            message(b'B', 1, b"123456789"),
            message(b'X', 1, b"k"),
        ] {
            assert_eq!(Announcement::parse(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_missing_number_is_noticed() {
        let mut numbers = Numbers::default();
        assert!(numbers.repeated(0), "the first number is that of a heartbeat");
        assert!(!numbers.announced(1), "the counter was lost, or there was none");
        assert!(numbers.announced(2) && numbers.announced(3) && numbers.repeated(3));
        assert!(!numbers.announced(5), "a hole");
        assert!(numbers.announced(6));
        assert!(!numbers.announced(6), "a duplicate");
        assert!(!numbers.repeated(7), "the last announcement is missing");
        assert!(numbers.announced(8));
        assert!(!numbers.repeated(0) && !numbers.repeated(0), "the counter is lost");
        assert!(!numbers.announced(u64::MAX) && !numbers.announced(0));
    }

    proptest! {
        #[test]
        fn no_message_panics(kind in any::<u8>(), rest in proptest::collection::vec(any::<u8>(), 0..40)) {
            Announcement::parse(&rest);
            Announcement::parse(&[MAGIC, &[kind], &rest].concat());
        }
    }
}
