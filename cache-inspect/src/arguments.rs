//! The command line.

use std::{num::NonZeroU64, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::url;

/// The arguments of the program.
#[derive(Clone, Parser, Debug)]
#[command(name = "cache-inspect", version)]
#[command(about = "Looks into a cache in Redis, MySQL, MariaDB, PostgreSQL or SQLite, and changes nothing")]
#[command(
    after_help = "The URL may come from the environment variable CACHE_INSPECT_URL, which keeps a password out of \
                        the list of processes."
)]
pub struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Subcommand)]
pub(crate) enum Command {
    /// Describes what is stored under a key
    Key(KeyArguments),
    /// Sums up the keys of a namespace
    Namespace(NamespaceArguments),
}

#[derive(Clone, Args)]
#[command(override_usage = "cache-inspect key [URL] --namespace <NAMESPACE> [OPTIONS] <KEY>...")]
pub(crate) struct KeyArguments {
    /// The URL, then the key: text or a number as it is, or the fields of a tuple as several arguments
    #[arg(value_name = "URL|KEY", required = true, allow_negative_numbers = true)]
    pub(crate) positional: Vec<String>,
    #[command(flatten)]
    pub(crate) place: Place,
    /// The key is given as hexadecimal digits, for keys that are not text
    #[arg(long)]
    pub(crate) hex: bool,
    /// Also prints the payload: text if the codec is `json`, else hexadecimal digits; at most so many bytes
    #[arg(long, value_name = "BYTES", num_args = 0..=1, require_equals = true, default_missing_value = "1024")]
    pub(crate) payload: Option<usize>,
}

#[derive(Clone, Args)]
#[command(override_usage = "cache-inspect namespace [URL] --namespace <NAMESPACE> [OPTIONS]")]
pub(crate) struct NamespaceArguments {
    /// The URL
    #[arg(value_name = "URL")]
    pub(crate) positional: Vec<String>,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Only keys that match this pattern of Redis (`*`, `?`, `[a-z]`), without the namespace
    #[arg(long = "match", value_name = "GLOB")]
    pub(crate) pattern: Option<String>,
    /// Stops after so many keys
    #[arg(long, value_name = "KEYS", default_value = "10000")]
    pub(crate) limit: NonZeroU64,
    /// Stops after so many bytes of values
    #[arg(long, value_name = "BYTES", default_value = "268435456")]
    pub(crate) max_bytes: NonZeroU64,
    /// Stops after looking at about so many keys, those of other namespaces and those that do not match included
    #[arg(long, value_name = "KEYS", default_value = "1000000")]
    pub(crate) max_visited: NonZeroU64,
    /// Waits so many milliseconds after each request
    #[arg(long, value_name = "MILLISECONDS", default_value = "5")]
    pub(crate) pause: u64,
    /// Also lists the keys
    #[arg(long)]
    pub(crate) list: bool,
}

/// Where to look, and how.
#[derive(Clone, Args)]
pub(crate) struct Place {
    /// The namespace of the store
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: String,
    /// The table, in SQL
    #[arg(long, value_name = "TABLE", default_value = "cache_entries")]
    pub(crate) table: String,
    /// The store keeps plain values, without records around them (`plain()` of store-redis)
    #[arg(long)]
    pub(crate) plain: bool,
    /// The timeout of connecting and of each request, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_timeout)]
    pub(crate) timeout: Duration,
    /// A file with root certificates in PEM, for `rediss://` (in SQL, the URL names it)
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Arguments {
    /// Parses the command line.
    ///
    /// # Errors
    ///
    /// Prints the help, the version or the error, and returns the exit code for it.
    pub fn from_command_line() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            if error.use_stderr() {
                // The message quotes an argument, which may be a URL with a password.
                eprint!("{}", url::redacted(&error.render().to_string()));
                ExitCode::from(2)
            } else {
                let _ = error.print();
                ExitCode::SUCCESS
            }
        })
    }
}

/// Does not show the arguments, which may hold a password.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key",
            Self::Namespace(_) => "Namespace",
        })
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    let range = 0.001..=86_400.0;
    if range.contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err("not 0.001 to 86400".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn timeouts_are_seconds() {
        assert_eq!(parse_timeout("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "0", "-1", "NaN", "inf", "1s", "86401"] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
    }
}
