//! Programs that the tests and checks need.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Result,
    run::{cargo, find, run, succeeds},
};

/// A program that the tests start, and the Debian package that has it.
struct Program {
    name: &'static str,
    package: &'static str,
    why: &'static str,
}

const PROGRAMS: [Program; 9] = [
    Program { name: "redis-server", package: "redis-server", why: "private Redis servers" },
    Program { name: "mariadbd", package: "mariadb-server", why: "private MariaDB servers" },
    Program { name: "mariadb-install-db", package: "mariadb-server", why: "their data" },
    Program { name: "postgres", package: "postgresql", why: "private PostgreSQL servers" },
    Program { name: "openssl", package: "openssl", why: "certificates for TLS tests" },
    Program { name: "faketime", package: "faketime", why: "servers whose clocks differ" },
    Program { name: "chromium", package: "chromium", why: "the page of the example service in a browser" },
    Program { name: "prometheus", package: "prometheus", why: "the dashboard and the alerts" },
    Program { name: "promtool", package: "prometheus", why: "their checks" },
];

/// Installs the missing ones of the programs that the tests start. Returns an error if that fails,
/// so that no test is skipped.
pub(crate) fn install_programs() -> Result {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    packages.dedup();
    let list = packages.join(" ");
    let listed: Vec<String> = missing.iter().map(|program| format!("{} ({})", program.name, program.why)).collect();
    let lacks = format!("the tests need {}", listed.join(", "));
    if find("apt-get").is_none() {
        return Err(format!(
            "{lacks}, and this system has no apt-get to install them; install them by hand, they are the Debian packages \
             `{list}`"
        ));
    }
    let Some(privilege) = privilege() else {
        return Err(format!("{lacks}; run `sudo apt-get install {list}`, or run this as root"));
    };
    println!("    {lacks}: installing {list}");
    // The lists may be old or absent, as they are in a fresh container; an outdated list is still
    // worth a try.
    let updated = run(&mut apt_get(privilege, &["update"]));
    let arguments = [&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat();
    run(&mut apt_get(privilege, &arguments)).map_err(|why| {
        let update = updated.err().map(|why| format!("; before that, {why}")).unwrap_or_default();
        format!("{lacks}, and they could not be installed: {why}{update}; run `apt-get install {list}` by hand")
    })?;
    match self::missing().as_slice() {
        [] => Ok(()),
        [program, ..] => Err(format!("{} is still not to be found after installing {}", program.name, program.package)),
    }
}

fn missing() -> Vec<Program> {
    PROGRAMS
        .into_iter()
        .filter(|program| find(program.name).is_none() && beside_the_path(program.name).is_none())
        .collect()
}

/// The folder of Debian for servers that users do not start themselves.
fn beside_the_path(program: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = versions.map(|version| version.path().join("bin")).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// Returns the prefix of a command that only root may run, `None` if it cannot be run.
fn privilege() -> Option<&'static [&'static str]> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if is_root {
        return Some(&[]);
    }
    succeeds(Command::new("sudo").args(["-n", "true"])).then_some(&["sudo", "-n"])
}

fn apt_get(privilege: &[&str], arguments: &[&str]) -> Command {
    // RUNLEVEL=1, and under systemd SYSTEMD_OFFLINE=1, keep the packages from starting services: the tests
    // start servers of their own.
    let quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "SYSTEMD_OFFLINE=1", "apt-get"];
    let words = [privilege, &quiet, arguments].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Returns the path of cargo-deny, and builds it if it is missing (some four minutes on two cores).
pub(crate) fn cargo_deny(target: &Path) -> Result<PathBuf> {
    cargo_tool("cargo-deny", "^0.20", target)
}

/// Returns the path of cargo-mutants, and builds it if it is missing.
pub(crate) fn cargo_mutants(target: &Path) -> Result<PathBuf> {
    cargo_tool("cargo-mutants", "^27.1", target)
}

/// Returns the path of cargo-nextest, and builds it if it is missing.
pub(crate) fn cargo_nextest(target: &Path) -> Result<PathBuf> {
    cargo_tool("cargo-nextest", "^0.9", target)
}

/// Returns the search path with the folder of a program at its front.
pub(crate) fn with_on_path(program: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = program.parent().map(Path::to_owned).into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).map_err(|why| format!("the folder of {} does not fit on a path: {why}", program.display()))
}

/// Returns the path of a cargo subcommand: the one on the path, or one that is built into `target`,
/// once.
fn cargo_tool(name: &str, version: &str, target: &Path) -> Result<PathBuf> {
    if let Some(installed) = find(name) {
        return Ok(installed);
    }
    let tools = target.join("tools");
    let built = tools.join("bin").join(name);
    if !built.is_file() {
        println!("    {name} is not installed: building it, once");
        let mut install = cargo(&["install", name, "--version", version, "--locked", "--quiet", "--root"]);
        run(install.arg(&tools)).map_err(|why| format!("{why}; `cargo install {name}` by hand would do as well"))?;
    }
    Ok(built)
}
