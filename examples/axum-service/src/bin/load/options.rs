//! The options of the command line.

use std::{net::SocketAddr, str::FromStr, time::Duration};

pub(crate) const USAGE: &str = "\
usage: load [--address 127.0.0.1:3000] [--seconds 60] [--users 20000] [--workers 16] [--rate 2000]

  --address  where the service listens
  --seconds  how long the load lasts
  --users    how many users there are; 1 is asked for twice as often as 2
  --workers  how many connections there are
  --rate     how many requests are sent in a second at most, by all workers together
";

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Options {
    pub(crate) address: SocketAddr,
    pub(crate) duration: Duration,
    pub(crate) users: u32,
    pub(crate) workers: u32,
    pub(crate) rate: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 3000)),
            duration: Duration::from_mins(1),
            users: 20_000,
            workers: 16,
            rate: 2_000,
        }
    }
}

impl Options {
    /// Parses pairs of a name and a value. Returns `None` if the usage is asked for.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            if name == "--help" {
                return Ok(None);
            }
            let value = arguments.next().ok_or_else(|| format!("{name} has no value\n{USAGE}"))?;
            match &name[..] {
                "--address" => options.address = parse(&name, &value)?,
                "--seconds" => options.duration = Duration::from_secs(above_zero(&name, &value)?.into()),
                "--users" => options.users = above_zero(&name, &value)?,
                "--workers" => options.workers = above_zero(&name, &value)?,
                "--rate" => options.rate = above_zero(&name, &value)?,
                _ => return Err(format!("there is no option {name}\n{USAGE}")),
            }
        }
        Ok(Some(options))
    }
}

fn parse<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} cannot be {value:?}\n{USAGE}"))
}

fn above_zero(name: &str, value: &str) -> Result<u32, String> {
    parse(name, value).and_then(|number| if number == 0 { Err(format!("{name} cannot be zero")) } else { Ok(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Option<Options>, String> {
        Options::parse(arguments.iter().map(|&argument| argument.to_owned()))
    }

    #[test]
    fn options_replace_defaults() {
        let expected = Options { duration: Duration::from_secs(5), rate: 9, ..Options::default() };
        assert_eq!(parse(&["--seconds", "5", "--rate", "9"]), Ok(Some(expected)));
        assert_eq!(parse(&["--rate", "9", "--help"]), Ok(None));
    }

    #[test]
    fn wrong_options_are_refused() {
        assert_eq!(parse(&["--rate", "0"]), Err("--rate cannot be zero".to_owned()));
        assert_eq!(parse(&["--rate", "x"]), Err(format!("--rate cannot be \"x\"\n{USAGE}")));
        assert_eq!(parse(&["--rate"]), Err(format!("--rate has no value\n{USAGE}")));
        assert_eq!(parse(&["--speed", "1"]), Err(format!("there is no option --speed\n{USAGE}")));
    }
}
