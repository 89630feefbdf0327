//! Measures subjects side by side: they take turns, round by round, in one process.

mod plot;
mod table;
mod time;

use std::{io, path::PathBuf, pin::Pin};

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) use self::{
    table::Table,
    time::{in_task, nanos, nanos_in_task, on_threads, per_call},
};

/// How to measure, and what to print.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds of each subject, after one that does not count
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measures the first subject of each table, and those whose name contains this text
    #[arg(long, default_value = "")]
    only: String,
    #[command(flatten)]
    output: Output,
}

/// What to print.
#[derive(clap::Args)]
pub(crate) struct Output {
    /// Prints JSON, one object per table
    #[arg(long)]
    json: bool,
    /// Also draws each table into this directory, as SVG
    #[arg(long)]
    plots: Option<PathBuf>,
}

impl Output {
    /// Prints the table.
    ///
    /// # Errors
    ///
    /// Returns the error of writing a plot.
    pub(crate) fn print(&self, table: &Table) -> io::Result<()> {
        if self.json {
            println!("{}", table.json());
        } else {
            println!("{table}");
        }
        self.plots.as_ref().map_or(Ok(()), |directory| plot::write(table, directory))
    }
}

/// The result of one round of one subject.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// In the unit of the contest.
    pub(crate) value: f64,
    /// Further figures, by the names of their columns.
    pub(crate) more: Vec<(&'static str, f64)>,
}

impl Sample {
    pub(crate) fn of(value: f64) -> Self {
        Self { value, more: Vec::new() }
    }

    pub(crate) fn with(mut self, column: &'static str, figure: f64) -> Self {
        self.more.push((column, figure));
        self
    }

    /// Adds the figure, if there is one.
    pub(crate) fn with_some(self, column: &'static str, figure: Option<f64>) -> Self {
        match figure {
            Some(figure) => self.with(column, figure),
            None => self,
        }
    }
}

type Round<'a> = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = Sample> + 'a>> + 'a>;

/// Subjects that do the same work. The first one is what the others are compared with.
pub(crate) struct Contest<'a> {
    title: String,
    unit: &'static str,
    subjects: Vec<(String, Round<'a>)>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self { title: title.into(), unit, subjects: Vec::new() }
    }

    /// Adds a subject, of which `round` measures one round.
    pub(crate) fn add<F: Future<Output = Sample> + 'a>(
        &mut self,
        name: impl Into<String>,
        mut round: impl FnMut() -> F + 'a,
    ) {
        self.subjects.push((name.into(), Box::new(move || Box::pin(round()))));
    }

    /// Adds a subject that does not wait for anything.
    pub(crate) fn add_sync(&mut self, name: impl Into<String>, mut round: impl FnMut() -> Sample + 'a) {
        self.add(name, move || std::future::ready(round()));
    }

    /// Lets the subjects take turns, and prints the table.
    ///
    /// # Errors
    ///
    /// Returns the error of writing a plot.
    pub(crate) async fn run(mut self, options: &Options) -> io::Result<Table> {
        let mut at = 0;
        self.subjects.retain(|(name, _)| {
            at += 1;
            at == 1 || name.contains(&options.only)
        });
        let bar = ProgressBar::new(u64::from(options.rounds + 1) * self.subjects.len() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}").expect("a valid template"));
        let mut samples: Vec<Vec<Sample>> = self.subjects.iter().map(|_| Vec::new()).collect();
        for number in 0..=options.rounds {
            for ((name, round), samples) in self.subjects.iter_mut().zip(&mut samples) {
                bar.set_message(name.clone());
                // A round may exhaust the budget of a task, after which calls would wait.
                let sample = tokio::task::coop::unconstrained(round()).await;
                if number > 0 {
                    samples.push(sample);
                }
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let subjects = self.subjects.into_iter().map(|(name, _)| name).zip(samples);
        let table = Table::of(self.title, self.unit, &subjects.collect::<Vec<_>>());
        options.output.print(&table)?;
        Ok(table)
    }
}

/// Adds up what `tasks` concurrent tasks do: `calls` calls each, one after the other. Returns calls
/// per second. Each call has a number of its own, and calls at the same time have near ones.
pub(crate) async fn throughput<F>(tasks: usize, calls: usize, call: impl Fn(usize) -> F + Clone + Send + 'static) -> f64
where
    F: Future<Output = ()> + Send,
{
    let started = std::time::Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let call = call.clone();
            tokio::spawn(async move {
                for at in 0..calls {
                    call(at * tasks + task).await;
                }
            })
        })
        .collect();
    for task in running {
        task.await.expect("the calls");
    }
    (tasks * calls) as f64 / started.elapsed().as_secs_f64()
}
