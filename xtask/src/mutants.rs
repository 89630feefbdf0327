//! Mutation tests of the consistency core.

use std::process::Command;

use crate::{
    Result,
    run::{root, run},
    steps::Steps,
    tools,
    workspace::Workspace,
};

/// The packages of the consistency core. Their own tests run against each mutant.
const PACKAGES: [&str; 2] = ["cache-core", "cache-chain"];

/// The files of the consistency core, as globs relative to the root of the workspace.
const FILES: [&str; 15] = [
    "cache-core/src/fence.rs",
    "cache-chain/src/flight/mod.rs",
    "cache-chain/src/flight/nesting/*.rs",
    "cache-chain/src/flight/shared.rs",
    "cache-chain/src/load/batch/*.rs",
    "cache-chain/src/load/claim.rs",
    "cache-chain/src/load/commit.rs",
    "cache-chain/src/load/reload.rs",
    "cache-chain/src/read/leases.rs",
    "cache-chain/src/repair.rs",
    "cache-chain/src/tier/breaker.rs",
    "cache-chain/src/tier/fenced/*.rs",
    "cache-chain/src/tier/pending_deletes.rs",
    "cache-chain/src/tier/repair.rs",
    "cache-chain/src/write/*.rs",
];

/// The tests that run: all but long ones that do not reach the consistency core (codecs, the suites'
/// tests of themselves, the models of coherence), and one that finds nothing that others do not.
const TESTS: &str =
    "not (test(codec::tests) or test(every_clause) or test(coherence::model) or test(g3_a_million_cancelled_flights))";

/// Changes the consistency core in one place at a time, and fails if the tests of its packages miss
/// a change.
pub(crate) fn all(steps: &mut Steps) -> Result {
    steps.step("programs that the tests start", tools::install_programs)?;
    let workspace = Workspace::read()?;
    steps.step("mutants of the consistency core", || {
        let mut command = Command::new(tools::cargo_mutants(&workspace.target)?);
        command.env("PATH", tools::with_on_path(&tools::cargo_nextest(&workspace.target)?)?);
        // Cargo passes the name of a subcommand as its first argument, and cargo-mutants expects
        // it.
        command.current_dir(root()).args(["mutants", "--all-features", "--output"]).arg(&workspace.target);
        command.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
        command.args(FILES.iter().flat_map(|file| ["--file", file]));
        command.args(["--exclude", "**/model.rs", "--shuffle"]);
        // Its runs end at the first test that fails.
        command.args(["--test-tool", "nextest", "--", "--lib", "--tests", "-E", TESTS]);
        // A mutant is built in 6 s instead of a minute.
        command.envs([("CARGO_INCREMENTAL", "1"), ("CARGO_PROFILE_DEV_DEBUG", "0")]);
        run(&mut command)
    })
}
