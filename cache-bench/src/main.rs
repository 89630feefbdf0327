//! `cargo run --release -p cache-bench -- resurrection`: this cache beside its peers, in the same
//! scenarios.

mod origin;
mod report;
mod scenarios;
mod subject;
mod subjects;

use std::process::ExitCode;

use crate::{
    report::{Column, Report},
    subjects::{Amalgam, Foyer, Moka, MultiTier, Ours},
};

fn main() -> ExitCode {
    if !std::env::args().skip(1).eq(["resurrection"]) {
        eprintln!("usage: cargo run --release -p cache-bench -- resurrection");
        return ExitCode::from(2);
    }
    // Loads panic by order here; what comes of it is in the table.
    std::panic::set_hook(Box::new(|_| ()));
    let ours = Column::of::<Ours>();
    let ours_keeps_all = ours.keeps_all();
    let peers = [Column::of::<Moka>(), Column::of::<Foyer>(), Column::of::<MultiTier>(), Column::of::<Amalgam>()];
    print!("{}", Report([ours].into_iter().chain(peers).collect()));
    if ours_keeps_all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
