//! Tokens by which a later read, in any process, sees a write.

use std::{fmt, str::FromStr};

use cache_core::{Error, ErrorKind, Result, backend::ServerTime};

/// A moment of the shared tier. A read with it sees all writes from before that moment; see
/// [`ChainCache::get_at_least`](crate::ChainCache::get_at_least).
///
/// Its text has at most 26 letters and digits, so it fits into a cookie or a header. It is no
/// secret. A forged one costs at most reads of the shared tier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FreshnessToken {
    /// `None` if the shared tier has no clock.
    moment: Option<Moment>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Moment {
    run: u32,
    millis: u64,
}

impl FreshnessToken {
    /// Creates the token of everything that was written until this time.
    pub(crate) fn at(time: Option<ServerTime>) -> Self {
        Self { moment: time.map(|time| Moment { run: time.run, millis: time.latest }) }
    }

    /// Returns `true` if an entry that was current `ago` milliseconds before this time is at least
    /// as new.
    pub(crate) fn is_covered(self, time: ServerTime, ago: u64) -> bool {
        let is_past = |moment: Moment| moment.run == time.run && time.earliest.saturating_sub(ago) >= moment.millis;
        self.moment.is_some_and(is_past)
    }
}

/// Writes the token: `0` if it has no moment.
impl fmt::Display for FreshnessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.moment {
            Some(Moment { run, millis }) => write!(f, "{run:x}x{millis:x}"),
            None => f.write_str("0"),
        }
    }
}

impl FromStr for FreshnessToken {
    type Err = Error;

    /// Reads what `Display` has written.
    ///
    /// # Errors
    ///
    /// Returns an error of kind `InvalidInput` if the text is no token.
    fn from_str(text: &str) -> Result<Self> {
        let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let moment = || {
            let (run, millis) = text.split_once('x').filter(|(run, millis)| is_hex(run) && is_hex(millis))?;
            Some(Moment { run: u32::from_str_radix(run, 16).ok()?, millis: u64::from_str_radix(millis, 16).ok()? })
        };
        match moment() {
            None if text != "0" => {
                let message = "this is no freshness token; pass the text of one unchanged, or read without a token";
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
            moment => Ok(Self { moment }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text() {
        let latest = |run, latest| FreshnessToken::at(Some(ServerTime { run, earliest: 0, latest }));
        for token in [FreshnessToken::at(None), latest(0, 0), latest(u32::MAX, u64::MAX), latest(7, 1_700_000_000_000)]
        {
            let text = token.to_string();
            assert_eq!(text.parse::<FreshnessToken>().unwrap(), token);
            assert!(text.len() <= 26 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{text}");
        }
        for text in
            ["", "x", "1", "00x", "+1x2", "1x2x3", "100000000x1", "1x10000000000000000", "ä", &"1".repeat(100_000)]
        {
            assert_eq!(text.parse::<FreshnessToken>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text:.20}");
        }
    }

    #[test]
    fn a_token_is_covered_by_what_was_current_later_in_the_same_run() {
        let token = FreshnessToken::at(Some(ServerTime { run: 7, earliest: 990, latest: 1000 }));
        let now = |run, earliest| ServerTime { run, earliest, latest: u64::MAX };
        assert!(token.is_covered(now(7, 1000), 0) && token.is_covered(now(7, 1500), 500));
        assert!(!token.is_covered(now(7, 999), 0) && !token.is_covered(now(7, 1500), 501));
        assert!(!token.is_covered(now(8, 5000), 0));
        assert!(!FreshnessToken::at(None).is_covered(now(0, u64::MAX), 0));
    }
}
