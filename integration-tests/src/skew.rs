//! Machines whose wall clocks are wrong.

use std::{fs, process::Command};

/// Makes the command run with a wall clock that is wrong by so many seconds. Its monotonic clock is right.
///
/// It preloads libfaketime itself: the `faketime` program would stand between the test and its process. (A redis-server
/// does not come up this way: its allocator and libfaketime wait for each other.)
pub fn skewed(mut command: Command, seconds: i64) -> Command {
    let folders = fs::read_dir("/usr/lib").expect("a folder of libraries").flatten().map(|folder| folder.path());
    let library = folders
        .chain(["/usr/lib".into(), "/usr/local/lib".into()])
        .map(|folder| folder.join("faketime/libfaketime.so.1"))
        .find(|library| library.exists())
        .expect("this test needs libfaketime, see CONTRIBUTING (apt-get install faketime)");
    command.env("LD_PRELOAD", library);
    command.env("FAKETIME", format!("{seconds:+}s")).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}
