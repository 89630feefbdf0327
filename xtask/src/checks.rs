//! The checks of CI.

use std::{fs, process::Command, time::UNIX_EPOCH};

use crate::{
    Result, contributing,
    run::{cargo, output, root, run},
    steps::Steps,
    tests, tools,
    workspace::Workspace,
};

/// Runs every check, the quick ones first.
pub(crate) fn ci(steps: &mut Steps) -> Result {
    let workspace = Workspace::read()?;
    steps.step("manifests agree on the oldest compiler", || rust_versions_agree(&workspace))?;
    steps.step("format", || run(&mut cargo(&["fmt", "--all", "--check"])))?;
    steps.step("cache-core stays free of drivers and runtimes", core_is_light)?;
    steps.step("packages hold what they need", || packages_are_complete(&workspace))?;
    let lints = ["--all-targets", "--all-features", "--keep-going", "--", "-D", "warnings"];
    steps.step("lints", || run(cargo(&["clippy"]).args(workspace.in_ci()).args(lints)))?;
    for package in workspace.published() {
        steps.step(format!("{} alone, and with each feature", package.name), || {
            let lint = ["clippy", "--package", &package.name, "--no-default-features"];
            let deny = ["--", "-D", "warnings"];
            run(&mut cargo(&[&lint[..], &deny].concat()))?;
            for feature in &package.features {
                run(&mut cargo(&[&lint[..], &["--features", feature], &deny].concat()))?;
            }
            Ok(())
        })?;
    }
    steps.step("docs", || {
        let mut docs = cargo(&["doc", "--all-features", "--no-deps", "--keep-going"]);
        run(docs.args(workspace.in_ci()).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    tests::all(steps)?;
    steps.step("the example of CONTRIBUTING", || contributing::check(&workspace))?;
    steps.step("each package builds by itself", || packages_build(&workspace))?;
    steps.step("licences, sources and bans", || deny(&workspace, &["bans", "licenses", "sources"]))
}

/// Checks the dependencies for known vulnerabilities. This is not a part of [`ci`], because it
/// fetches the advisory database.
pub(crate) fn advisories(steps: &mut Steps) -> Result {
    let workspace = Workspace::read()?;
    steps.step("advisories", || deny(&workspace, &["advisories"]))
}

/// Checks that every published crate declares its oldest compiler, and that no dependency that it
/// always builds needs a newer one.
fn rust_versions_agree(workspace: &Workspace) -> Result {
    for package in workspace.published() {
        let name = &package.name;
        let declared = package.rust_version.ok_or_else(|| format!("{name} declares no rust-version"))?;
        for dependency in &package.dependencies {
            if let Some(needed) = workspace.rust_version_of(dependency).filter(|needed| *needed > declared) {
                return Err(format!("{name} declares Rust {declared:?}, but {dependency} needs {needed:?}"));
            }
        }
    }
    Ok(())
}

fn core_is_light() -> Result {
    let tree = ["tree", "--package", "cache-core", "--all-features", "--edges", "normal", "--prefix", "none"];
    let tree = output(&mut cargo(&tree))?;
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    match names.into_iter().find(|name| ["tokio", "redis", "stretto", "sqlx"].contains(name)) {
        Some(name) => {
            Err(format!("cache-core depends on {name}, see `cargo tree --package cache-core --invert {name}`"))
        }
        None => Ok(()),
    }
}

/// The files that every package must contain.
const IN_EVERY_PACKAGE: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

fn packages_are_complete(workspace: &Workspace) -> Result {
    for package in workspace.published() {
        let files = output(&mut cargo(&["package", "--list", "--allow-dirty", "--package", &package.name]))?;
        for file in IN_EVERY_PACKAGE {
            if !files.lines().any(|line| line == file) {
                return Err(format!("the package of {} has no {file}", package.name));
            }
        }
    }
    Ok(())
}

/// Packages and builds all published crates in one command, so that crates that are not published
/// yet are found by the crates that depend on them.
fn packages_build(workspace: &Workspace) -> Result {
    // The folder has a new name each time. Cargo treats the unpacked packages like crates of a
    // registry, which never change, so in an old folder it would build against the previous
    // cache-core.
    let now = UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?;
    let folder = workspace.target.join(format!("package-{}", now.as_nanos()));
    // Changes that are not committed are checked as well.
    let mut command = cargo(&["package", "--workspace", "--allow-dirty", "--target-dir"]);
    command.arg(&folder);
    for package in workspace.unpublished() {
        command.args(["--exclude", &package.name]);
    }
    let outcome = run(&mut command);
    let removed = fs::remove_dir_all(&folder);
    outcome?;
    removed.map_err(|error| format!("cannot remove {}: {error}", folder.display()))
}

fn deny(workspace: &Workspace, checks: &[&str]) -> Result {
    let mut command = Command::new(tools::cargo_deny(&workspace.target)?);
    command.current_dir(root()).arg("--all-features").args(workspace.in_ci());
    run(command.args(["check", "--hide-inclusion-graph"]).args(checks))
}
