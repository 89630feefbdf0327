//! The URL of the backend.

use std::env;

use crate::error::{Error, Result};

/// The environment variable that may hold the URL.
const VARIABLE: &str = "CACHE_INSPECT_URL";

/// The kind of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Redis,
    MySql,
    Postgres,
    Sqlite,
}

/// A URL and the kind of its backend.
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) url: String,
}

impl Target {
    /// Splits the arguments into the URL and the rest. If the first argument is no URL of a backend,
    /// all of them are the rest, and the URL is `default`.
    ///
    /// # Errors
    ///
    /// Returns an error of usage if there is no URL.
    pub(crate) fn split(arguments: &[String], default: Option<String>) -> Result<(Self, Vec<String>)> {
        let no_url = || {
            Error::usage(format!(
                "there is no URL: write it as the first argument or into the environment variable {VARIABLE}. It begins \
                 with redis://, rediss://, unix://, mysql://, mariadb://, postgres:// or sqlite://"
            ))
        };
        if let Some((first, rest)) = arguments.split_first()
            && let Some(kind) = Kind::of(first)
        {
            return Ok((Self { kind, url: first.clone() }, rest.to_vec()));
        }
        let url = default.ok_or_else(no_url)?;
        let kind = Kind::of(&url).ok_or_else(no_url)?;
        Ok((Self { kind, url }, arguments.to_vec()))
    }
}

impl Kind {
    fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once(':')?;
        match scheme {
            "redis" | "rediss" | "valkey" | "valkeys" | "redis+unix" | "valkey+unix" | "unix" => {
                rest.starts_with("//").then_some(Self::Redis)
            }
            "mysql" | "mariadb" => rest.starts_with("//").then_some(Self::MySql),
            "postgres" | "postgresql" => rest.starts_with("//").then_some(Self::Postgres),
            "sqlite" => rest.starts_with("//").then_some(Self::Sqlite),
            _ => None,
        }
    }
}

/// Returns the URL of the environment.
pub(crate) fn from_environment() -> Option<String> {
    env::var(VARIABLE).ok().filter(|url| !url.is_empty())
}

/// Returns the text without what follows `://` in each word.
pub(crate) fn redacted(text: &str) -> String {
    let mut redacted = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        redacted.push_str(before);
        redacted.push('…');
        rest = &after[after.find(char::is_whitespace).unwrap_or(after.len())..];
    }
    redacted + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn split(arguments: &[&str], default: Option<&str>) -> Option<(Kind, String, Vec<String>)> {
        let (target, rest) = Target::split(&words(arguments), default.map(str::to_owned)).ok()?;
        Some((target.kind, target.url, rest))
    }

    #[test]
    fn the_url_comes_first_or_from_the_environment() {
        let (url, other) = ("redis://h/", "sqlite://f");
        assert_eq!(split(&[url, "k"], Some(other)), Some((Kind::Redis, url.into(), words(&["k"]))));
        assert_eq!(split(&["k", url], Some(other)), Some((Kind::Sqlite, other.into(), words(&["k", url]))));
        assert_eq!(split(&["k"], None), None);
        assert_eq!(split(&["k"], Some("http://h/")), None);
        assert_eq!(split(&["redis:42"], None), None, "a key");
    }

    #[test]
    fn what_may_be_a_password_is_not_quoted() {
        let text = "error: unexpected 'redis://u:p@h/0' found\nsee mysql://x:y@z";
        assert_eq!(redacted(text), "error: unexpected 'redis://… found\nsee mysql://…");
        assert_eq!(redacted("plain: text"), "plain: text");
        let error = Target::split(&words(&["redsi://u:secret@h"]), None).err().unwrap();
        assert!(!error.to_string().contains("secret") && error.exit_code() == 2, "{error}");
    }
}
