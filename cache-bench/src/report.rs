//! Plays the scenarios and tells who keeps the promise.

use std::{fmt, sync::mpsc, thread, time::Duration};

use tokio::runtime::Builder;

use crate::{
    scenarios::{Course, Outcome, Scenario, scenarios},
    subject::Subject,
    subjects::{Ours, VERSIONS},
};

/// How often each scenario is played: half of the times on one thread and half on two.
const RUNS: u32 = 20;

/// Past all bounds within a scenario: the cache has blocked the thread.
const BLOCKED: Duration = Duration::from_mins(1);

/// Broken in this way, if in any run; `None` if it does not apply.
type Verdict = Option<Outcome>;

/// What became of one cache.
pub(crate) struct Column {
    name: &'static str,
    verdicts: Vec<Verdict>,
}

impl Column {
    pub(crate) fn of<S: Subject>() -> Self {
        let verdict = |Scenario(_, about_tiers, course)| {
            let play = |run| play(course, run % 2 == 0);
            (S::TIERED || !about_tiers).then(|| (0..RUNS).try_for_each(play))
        };
        Self { name: S::NAME, verdicts: scenarios::<S>().map(verdict).into() }
    }

    pub(crate) fn keeps_all(&self) -> bool {
        self.kept() == self.verdicts.len()
    }

    fn kept(&self) -> usize {
        self.verdicts.iter().filter(|verdict| **verdict == Some(Ok(()))).count()
    }
}

/// In a thread that can be given up.
fn play(course: Course, on_one_thread: bool) -> Outcome {
    let (report, outcome) = mpsc::channel();
    thread::spawn(move || {
        let mut runtime = if on_one_thread { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        let runtime = runtime.worker_threads(2).enable_time().build().expect("threads can be started");
        let _ = report.send(runtime.block_on(course()));
        runtime.shutdown_background();
    });
    outcome.recv_timeout(BLOCKED).unwrap_or_else(|error| match error {
        mpsc::RecvTimeoutError::Timeout => Err("it blocks the thread".to_owned()),
        mpsc::RecvTimeoutError::Disconnected => Err("it panics".to_owned()),
    })
}

/// A column for each cache.
pub(crate) struct Report(pub(crate) Vec<Column>);

/// A table, how each promise was broken, and as the last line how many each has kept.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|column| column.name).collect();
        writeln!(f, "| who keeps the promise | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()))?;
        for (row, Scenario(title, ..)) in scenarios::<Ours>().iter().enumerate() {
            let cells = self.0.iter().map(|column| match &column.verdicts[row] {
                Some(Ok(())) => "kept",
                Some(Err(_)) => "BROKEN",
                None => "n.a. (one tier)",
            });
            writeln!(f, "| {}. {title} | {} |", row + 1, cells.collect::<Vec<_>>().join(" | "))?;
        }
        writeln!(
            f,
            "\nkept: in {RUNS} of {RUNS} runs. n.a.: does not apply, and is not counted as kept. {VERSIONS}\n"
        )?;
        for column in &self.0 {
            for (row, verdict) in column.verdicts.iter().enumerate() {
                if let Some(Err(how)) = verdict {
                    writeln!(f, "- {}, {}: {how}", column.name, row + 1)?;
                }
            }
        }
        let kept: Vec<String> = self.0.iter().map(|column| format!("{} {}", column.name, column.kept())).collect();
        writeln!(f, "\nresurrection: {} scenarios; kept by {}", scenarios::<Ours>().len(), kept.join(", "))
    }
}
