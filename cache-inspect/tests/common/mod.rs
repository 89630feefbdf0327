//! Runs the program.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::process::Command;

use serde_json::Value;

/// What a run has printed.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the program with these arguments, and with a URL in the environment if there is one.
pub(crate) fn run_with(url: Option<&str>, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cache-inspect"));
    command.env_remove("CACHE_INSPECT_URL").args(arguments);
    if let Some(url) = url {
        command.env("CACHE_INSPECT_URL", url);
    }
    let output = command.output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code().expect("a code"), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs the program with these arguments.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    run_with(None, arguments)
}

/// Runs the program, which must succeed, and returns its JSON.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let ran = run(&[arguments, &["--json"]].concat());
    assert_eq!((ran.code, &ran.err[..]), (0, ""), "{arguments:?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
}

/// Runs the program, which must fail with this code, and returns the message. It must not contain a
/// password of the tests.
pub(crate) fn failure(code: i32, arguments: &[&str]) -> String {
    let ran = run(arguments);
    assert_eq!((ran.code, &ran.out[..]), (code, ""), "{arguments:?}: {}", ran.err);
    assert!(ran.err.starts_with("error: "), "{}", ran.err);
    assert!(!["s3cret", "hunter2"].iter().any(|password| ran.err.contains(password)), "{}", ran.err);
    ran.err
}

/// Asserts that a number of milliseconds is at most `most`, and less by no more than a minute.
pub(crate) fn assert_about(value: &Value, most: u64) {
    let millis = value.as_u64().unwrap_or_else(|| panic!("{value} is no number of milliseconds"));
    assert!(millis <= most && millis + 60_000 > most, "{millis} is not about {most}");
}
