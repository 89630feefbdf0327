//! Keys, as they are given on the command line.

use cache_core::{CacheKey, Key, KeyWriter};

use crate::error::{Error, Result};

/// The fields of a tuple.
struct Fields<'a>(&'a [String]);

impl CacheKey for Fields<'_> {
    fn write_key(&self, out: &mut KeyWriter) {
        for field in self.0 {
            out.field(field);
        }
    }
}

/// Returns the key: one part as it is, or several parts as the fields of a tuple.
///
/// # Errors
///
/// Returns an error of usage if there is no part, a digit is none, or the key is too long.
pub(crate) fn parse(parts: &[String], is_hex: bool) -> Result<Key> {
    match (parts, is_hex) {
        ([], _) => Err(Error::usage("there is no key: write it after the URL")),
        ([digits], true) => Ok(Key::new(&decode_hex(digits)?)?),
        (_, true) => Err(Error::usage("--hex takes one key; a tuple is written as its bytes, with `:` (3a) between")),
        ([text], false) => Ok(Key::new(text)?),
        (fields, false) => Ok(Key::new(&Fields(fields))?),
    }
}

fn decode_hex(digits: &str) -> Result<Vec<u8>> {
    let wrong = || Error::usage("the key for --hex must be an even number of hexadecimal digits");
    let values: Option<Vec<u8>> = digits.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let values = values.filter(|values| values.len().is_multiple_of(2)).ok_or_else(wrong)?;
    Ok(values.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(parts: &[&str], is_hex: bool) -> Option<Vec<u8>> {
        let parts: Vec<String> = parts.iter().map(|&part| part.to_owned()).collect();
        Some(parse(&parts, is_hex).ok()?.as_bytes().to_vec())
    }

    fn bytes(key: &(impl CacheKey + ?Sized)) -> Vec<u8> {
        Key::new(key).unwrap().as_bytes().to_vec()
    }

    #[test]
    fn a_key_is_that_of_the_application() {
        assert_eq!(parsed(&["a:b"], false), Some(bytes("a:b")));
        assert_eq!(parsed(&["-42"], false), Some(bytes(&-42)));
        assert_eq!(parsed(&["acme", "42"], false), Some(bytes(&("acme", 42))));
        assert_eq!(parsed(&["a:b", "c\\", "7"], false), Some(bytes(&("a:b", "c\\", 7))));
        assert_eq!(parsed(&["00Ff3a"], true), Some(bytes(&[0, 0xff, b':'])));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (parts, is_hex) in
            [(&[][..], false), (&[""], false), (&["abc"], true), (&["zz"], true), (&["aa", "bb"], true)]
        {
            assert_eq!(parsed(parts, is_hex), None, "{parts:?}");
        }
    }
}
