//! `cargo run --release -p cache-bench -- <what>`: this cache beside its peers.

mod backfill;
mod hit;
mod keys;
mod measure;
mod miss;
mod origin;
mod peers;
mod redis_cost;
mod replay;
mod report;
mod scale;
mod scenarios;
mod set;
mod sql_cost;
mod stampede;
mod subject;
mod subjects;

use std::{io, process::ExitCode};

use clap::Parser;
use tokio::runtime::Builder;

use crate::{
    report::{Column, Report},
    subjects::{Amalgam, Foyer, Moka, MultiTier, Ours},
};

/// This cache beside its peers.
#[derive(Parser)]
#[command(name = "cache-bench")]
enum What {
    /// A hit in memory: time, allocations, and two threads
    Hit(hit::Hit),
    /// A write to memory
    Set(set::Set),
    /// A miss
    Miss(miss::Miss),
    /// Many callers of one cold key
    Stampede(stampede::Stampede),
    /// Asynchronous backfill, and its queue
    Backfill(backfill::Backfill),
    /// More entries, more tiers, larger values
    Scale(scale::Scale),
    /// Plays the races that bring old values back
    Resurrection,
    /// Redis below a chain, and by its driver alone
    Redis(redis_cost::RedisCost),
    /// SQL below a chain, and by sqlx alone
    Sql(sql_cost::SqlCost),
    /// Replays a trace: hit ratio and residency of each first tier
    Replay(replay::Replay),
}

fn main() -> ExitCode {
    match What::parse() {
        What::Hit(hit) => run_on(&mut Builder::new_current_thread(), hit.run()),
        What::Set(set) => run(set.run()),
        What::Miss(miss) => run(miss.run()),
        What::Stampede(stampede) => run(stampede.run()),
        What::Backfill(backfill) => run(backfill.run()),
        What::Scale(scale) => run_on(&mut Builder::new_current_thread(), scale.run()),
        What::Resurrection => resurrection(),
        What::Redis(redis) => run(redis.run()),
        What::Sql(sql) => run(sql.run()),
        What::Replay(replay) => run_on(&mut Builder::new_current_thread(), replay.run()),
    }
}

fn run(measure: impl Future<Output = io::Result<()>>) -> ExitCode {
    run_on(&mut Builder::new_multi_thread(), measure)
}

fn run_on(runtime: &mut Builder, measure: impl Future<Output = io::Result<()>>) -> ExitCode {
    match runtime.enable_all().build().expect("a runtime").block_on(measure) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn resurrection() -> ExitCode {
    // Loads panic by order here; what comes of it is in the table.
    std::panic::set_hook(Box::new(|_| ()));
    let ours = Column::of::<Ours>();
    let ours_keeps_all = ours.keeps_all();
    let peers = [Column::of::<Moka>(), Column::of::<Foyer>(), Column::of::<MultiTier>(), Column::of::<Amalgam>()];
    print!("{}", Report([ours].into_iter().chain(peers).collect()));
    if ours_keeps_all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
