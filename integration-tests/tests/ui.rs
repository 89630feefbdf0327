//! What the compiler says about common mistakes.
//!
//! Each `ui/*.rs` must not compile, and each line of the `.stderr` beside it must occur in what the
//! compiler says, in that order. The lines are the parts that this workspace chooses, so they do
//! not depend on the compiler's version. The files are compiled as programs of an application that
//! depends on cache-chain and serde alone, because in this workspace serde has features that the
//! application may lack.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The manifest of the application.
fn manifest(root: &Path, programs: &[PathBuf]) -> String {
    let mut manifest = format!(
        "[package]\nname = \"application\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         cache-chain = {{ path = '{}', features = [\"derive\", \"redis\"] }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n",
        root.join("cache-chain").display()
    );
    for program in programs {
        let (name, path) = (stem(program), program.display());
        write!(manifest, "\n[[bin]]\nname = '{name}'\npath = '{path}'\n").unwrap();
    }
    manifest
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// Returns what is wrong with what the compiler says about the program.
fn fault(folder: &Path, program: &Path) -> Option<String> {
    let mut cargo = Command::new(env!("CARGO"));
    // Offline: the lock file is that of the workspace, whose dependencies are all here.
    cargo.args(["check", "--offline", "--quiet", "--color=never", "--bin", stem(program)]);
    let checked = cargo.current_dir(folder).env("CARGO_TARGET_DIR", folder.join("target")).output().unwrap();
    if checked.status.success() {
        return Some(format!("{} compiles", program.display()));
    }
    // The compiler writes the path if another crate has a type of the same name.
    let said = String::from_utf8_lossy(&checked.stderr).replace("std::string::String", "String");
    let mut rest = &*said;
    for line in fs::read_to_string(program.with_extension("stderr")).unwrap().lines() {
        let Some((_, after)) = rest.split_once(line) else {
            return Some(format!("{}: the compiler does not say {line:?}, but\n{said}", program.display()));
        };
        rest = after;
    }
    None
}

#[test]
fn the_compiler_says_what_to_do() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().unwrap();
    let entries = fs::read_dir(here.join("tests/ui")).unwrap().map(|entry| entry.unwrap().path());
    let mut programs: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|it| it == "rs")).collect();
    programs.sort();
    assert!(!programs.is_empty());

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("Cargo.toml"), manifest(root, &programs)).unwrap();
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();

    let faults: Vec<String> = programs.iter().filter_map(|program| fault(&folder, program)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
