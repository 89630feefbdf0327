//! The example of CONTRIBUTING, built from the document.

use std::{fs, path::Path, process::Command};

use crate::{
    Result,
    run::{cargo, root, run},
    workspace::Workspace,
};

/// Writes the crate that CONTRIBUTING shows to a workspace of its own with the settings of this
/// one, lints it as CI does, and runs its tests.
pub(crate) fn check(workspace: &Workspace) -> Result {
    let document = read(&root().join("CONTRIBUTING.md"))?;
    let manifest = block(&document, "```toml\n[package]")?;
    let store = block(&document, "```rust\nuse std")?;
    let suite = block(&document, "```rust,ignore\nuse std")?;

    let folder = workspace.target.join("contributing");
    let write = |path: &str, text: &str| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(|error| format!("{}: {error}", path.display()))?;
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    write("Cargo.toml", &settings(&read(&root().join("Cargo.toml"))?))?;
    write("Cargo.lock", &read(&root().join("Cargo.lock"))?)?;
    write("store-dict/Cargo.toml", &manifest)?;
    write("store-dict/README.md", "# store-dict\n\nA cache store in memory on a plain map.\n")?;
    write("store-dict/src/lib.rs", &format!("#![doc = include_str!(\"../README.md\")]\n\n{store}"))?;
    write("store-dict/tests/contract.rs", &format!("//! The contract.\n\n{suite}"))?;
    for name in ["rustfmt.toml", "clippy.toml"] {
        write(name, &read(&root().join(name))?)?;
    }

    let at_work = |arguments: &[&str]| -> Command {
        let mut command = cargo(arguments);
        command.current_dir(&folder).env("CARGO_TARGET_DIR", &workspace.target);
        command
    };
    run(&mut at_work(&["fmt", "--all", "--check"]))?;
    run(&mut at_work(&["clippy", "--all-targets", "--", "-D", "warnings"]))?;
    run(&mut at_work(&["test"]))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Returns the block of code that begins like this.
fn block(document: &str, beginning: &str) -> Result<String> {
    let missing = || format!("CONTRIBUTING.md has no block that begins with {beginning:?}");
    let at = document.find(beginning).ok_or_else(missing)?;
    let code = document[at..].split_once('\n').map_or("", |(_, code)| code);
    let end = code.find("\n```").ok_or_else(missing)?;
    Ok(code[..=end].to_owned())
}

/// Returns the settings of this workspace, for another workspace with one member.
fn settings(manifest: &str) -> String {
    let shared = manifest.find("[workspace.package]").map_or("", |at| &manifest[at..]);
    let paths = shared.replace("{ path = \"", &format!("{{ path = \"{}/", root().display()));
    format!("[workspace]\nresolver = \"3\"\nmembers = [\"store-dict\"]\n\n{paths}")
}
