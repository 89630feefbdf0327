//! The program `cache-inspect`. Its documentation is that of the library.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use cache_inspect::{Arguments, run};

fn main() -> ExitCode {
    let arguments = match Arguments::from_command_line() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match runtime.block_on(run(&arguments)) {
        Ok(report) => match io::stdout().write_all(report.as_bytes()) {
            // The reader of a pipe, such as `head`, may have had enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error, 1),
            _ => ExitCode::SUCCESS,
        },
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}
