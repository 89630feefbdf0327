//! Patterns of Redis, which SQL does not have.

/// Returns `true` if the pattern matches all of the bytes. `*`, `?`, `[abc]`, `[^a-z]` and `\` mean
/// what they mean to SCAN of Redis.
pub(crate) fn matches(pattern: &[u8], bytes: &[u8]) -> bool {
    let (mut at, mut rest) = (pattern, bytes);
    // After the last `*`, and the bytes from which it was tried last.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', after @ ..] = at {
            (at, retry) = (after, Some((after, rest)));
            continue;
        }
        let step = rest.split_first().and_then(|(&byte, tail)| Some((one(at, byte)?, tail)));
        match (step, retry) {
            _ if at.is_empty() && rest.is_empty() => return true,
            (Some(next), _) => (at, rest) = next,
            // The `*` takes one byte more.
            (None, Some((after, [_, tail @ ..]))) => (at, rest, retry) = (after, tail, Some((after, tail))),
            (None, _) => return false,
        }
    }
}

/// Returns the pattern after its first element if that element, which is no `*`, matches the byte.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', after @ ..] => Some(after),
        [b'[', class @ ..] => {
            let (is_in, after) = in_class(class, byte);
            is_in.then_some(after)
        }
        [b'\\', literal, after @ ..] | [literal, after @ ..] => (*literal == byte).then_some(after),
    }
}

/// Returns whether the byte is in the class whose text begins after `[`, and what follows the class.
/// A class that does not end extends to the end of the pattern.
fn in_class(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (is_negated, mut at) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut is_in = false;
    let after = loop {
        at = match at {
            [] => break at,
            [b'\\', literal, rest @ ..] => {
                is_in |= *literal == byte;
                rest
            }
            [b']', rest @ ..] => break rest,
            [first, b'-', last, rest @ ..] => {
                is_in |= (*first.min(last)..=*first.max(last)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                is_in |= *literal == byte;
                rest
            }
        };
    };
    (is_in != is_negated, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_those_of_redis() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a:b", true),
            ("a*", "ba", false),
            ("*b", "abab", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[a\\]]", "]", true),
            ("[ab", "b", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("acme:*", "acme:42", true),
            ("acme:*", "acm:42", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
