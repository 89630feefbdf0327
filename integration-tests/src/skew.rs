//! Machines whose wall clocks are wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Makes the command run with a wall clock that is wrong by so many seconds. Its monotonic clock is
/// right.
///
/// It preloads libfaketime itself: the `faketime` program would stand between the test and its
/// process. (A redis-server does not come up this way: its allocator and libfaketime wait for each
/// other.)
pub fn skewed(mut command: Command, seconds: i64) -> Command {
    command.env("LD_PRELOAD", library());
    command.env("FAKETIME", format!("{seconds:+}s")).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// A wall clock that a server runs by, and that can be set while it runs.
#[derive(Debug)]
pub(crate) struct MovableClock(PathBuf);

impl MovableClock {
    /// A clock that is right. The file holds by how much it is wrong.
    pub(crate) fn new(file: PathBuf) -> Self {
        let clock = Self(file);
        clock.set(0);
        clock
    }

    /// Makes it wrong by so many seconds.
    pub(crate) fn set(&self, seconds: i64) {
        // In one step: the server reads it at any time.
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("a file");
        fs::rename(new, &self.0).expect("a file");
    }

    /// The words in front of the command of a server that runs by it.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let (library, file) = (library(), &self.0);
        let variables = [
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
            "FAKETIME_NO_CACHE=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        ];
        ["env".to_owned()].into_iter().chain(variables).collect()
    }
}

/// The library that shows programs another time.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("a folder of libraries").flatten().map(|folder| folder.path());
    folders
        .chain([Path::new("/usr/lib").into(), Path::new("/usr/local/lib").into()])
        .map(|folder| folder.join("faketime/libfaketime.so.1"))
        .find(|library| library.exists())
        .expect("this test needs libfaketime, see CONTRIBUTING (apt-get install faketime)")
}
