//! Steps of a run. The name of a step is printed before it runs, and its time afterwards.

use std::time::{Duration, Instant};

use crate::Result;

/// The steps that have run.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    done: Vec<(String, Duration)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }
}

impl Steps {
    /// Runs one step. Its error ends the run: pass it on with `?`.
    pub(crate) fn step(&mut self, name: impl Into<String>, run: impl FnOnce() -> Result) -> Result {
        let name = name.into();
        println!("==> {name}");
        let started = Instant::now();
        let outcome = run();
        let took = started.elapsed();
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("<== {name}: {word} in {:.1} s", took.as_secs_f64());
        outcome.map_err(|why| format!("{name}: {why}"))?;
        self.done.push((name, took));
        Ok(())
    }

    /// Prints the times of all steps and, as the last line, the outcome of the run.
    pub(crate) fn sum_up(&self, command: &str, outcome: &Result) {
        println!();
        for (name, took) in &self.done {
            println!("{:>8.1} s  {name}", took.as_secs_f64());
        }
        let took = self.started.elapsed().as_secs_f64();
        let steps = self.done.len();
        match outcome {
            Ok(()) => println!("cargo xtask {command}: all {steps} steps passed in {took:.1} s"),
            Err(why) => println!("cargo xtask {command}: FAILED after {steps} steps and {took:.1} s at {why}"),
        }
    }
}
