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
const FILES: [&str; 14] = [
    "cache-core/src/fence.rs",
    "cache-chain/src/flight.rs",
    "cache-chain/src/flights.rs",
    "cache-chain/src/nesting.rs",
    "cache-chain/src/journal.rs",
    "cache-chain/src/mend.rs",
    "cache-chain/src/breaker.rs",
    "cache-chain/src/detached.rs",
    "cache-chain/src/completion.rs",
    "cache-chain/src/claim.rs",
    "cache-chain/src/keep.rs",
    "cache-chain/src/guard.rs",
    "cache-chain/src/guard/*.rs",
    "cache-chain/src/leases.rs",
];

/// Changes the consistency core in one place at a time, and fails if the tests of its packages miss a change.
pub(crate) fn all(steps: &mut Steps) -> Result {
    steps.step("programs that the tests start", tools::install_programs)?;
    let workspace = Workspace::read()?;
    steps.step("mutants of the consistency core", || {
        let mut command = Command::new(tools::cargo_mutants(&workspace.target)?);
        // Cargo passes the name of a subcommand as its first argument, and cargo-mutants expects it.
        command.current_dir(root()).args(["mutants", "--all-features", "--output"]).arg(&workspace.target);
        command.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
        command.args(FILES.iter().flat_map(|file| ["--file", file]));
        run(&mut command)
    })
}
