//! The tests.

use std::{env, ffi::OsString, process::Command};

use crate::{
    Result,
    run::{cargo, output, run},
    steps::Steps,
    tools,
    workspace::Workspace,
};

/// Installs what is missing and runs every test.
pub(crate) fn all(steps: &mut Steps) -> Result {
    steps.step("programs that the tests start", tools::install_programs)?;
    let workspace = Workspace::read()?;
    // Without `--all-targets`, which would leave out the doc tests. It builds the examples, too.
    let test = ["--all-features", "--no-fail-fast"];
    steps.step("tests", || run(cargo(&["test"]).args(workspace.in_ci()).args(test)))?;
    model(steps)
}

/// The models: the crate, the module that contains them, and the checkers that run them.
const MODELS: [(&str, &str, &[&str]); 4] = [
    ("cache-core", "fence::model", &["shuttle", "loom"]),
    ("cache-chain", "coherence::races", &["shuttle"]),
    ("cache-chain", "flight::model", &["shuttle"]),
    ("cache-chain", "fenced::model", &["shuttle"]),
];

/// Runs the model checkers.
pub(crate) fn model(steps: &mut Steps) -> Result {
    let workspace = Workspace::read()?;
    for (package, module, checkers) in MODELS {
        for checker in checkers {
            // Loom's search is long.
            let profile = (*checker == "loom").then_some("--release");
            steps.step(format!("model of {package} {module} under {checker}"), || {
                let command = |last: &[&str]| -> Command {
                    let mut command = cargo(&["test", "--package", package, "--lib"]);
                    command.args(profile).arg(module).args(last);
                    // A folder of its own, because the flags change every crate.
                    command.env("CARGO_TARGET_DIR", workspace.target.join(checker));
                    command.env("RUSTFLAGS", flags(checker));
                    command
                };
                // A filter that matches nothing passes: make sure that it matches.
                if !output(&mut command(&["--", "--list"]))?.lines().any(|line| line.ends_with(": test")) {
                    return Err(format!("there is no test in {package}'s {module}"));
                }
                run(&mut command(&[]))
            })?;
        }
    }
    Ok(())
}

fn flags(checker: &str) -> OsString {
    let mut flags = env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(format!(" --cfg {checker}"));
    flags
}
