//! Times calls, and counts their allocations.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::Sample;

/// Times this work in nanoseconds per call. A second pass counts the allocations, with the feature
/// `allocations`.
pub(crate) fn nanos(calls: usize, work: impl Fn()) -> Sample {
    let started = Instant::now();
    work();
    per_call(started.elapsed(), calls).with_some("allocations", allocations(calls, work))
}

/// The nanoseconds of one call.
pub(crate) fn per_call(elapsed: Duration, calls: usize) -> Sample {
    Sample::of(elapsed.as_nanos() as f64 / calls as f64)
}

/// The heap allocations of this thread during the work, for each call. `None` without the feature
/// `allocations`.
#[cfg(feature = "allocations")]
fn allocations(calls: usize, work: impl FnOnce()) -> Option<f64> {
    Some(allocation_counter::measure(work).count_total as f64 / calls as f64)
}

#[cfg(not(feature = "allocations"))]
fn allocations(_calls: usize, _work: impl FnOnce()) -> Option<f64> {
    None
}

/// Runs this work in a task, as applications run theirs.
pub(crate) async fn in_task<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.expect("the work")
}

/// Times this work in a task, in nanoseconds per call.
pub(crate) async fn nanos_in_task(calls: usize, work: impl Future<Output = ()> + Send + 'static) -> Sample {
    let timed = async {
        let started = Instant::now();
        work.await;
        started.elapsed()
    };
    per_call(in_task(timed).await, calls)
}

/// The time from the first call until the last thread has done its work; the threads start together.
/// Each gets its number.
pub(crate) fn on_threads(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let (ready, runtime, work) = (&Barrier::new(threads), &Handle::current(), &work);
    let times = thread::scope(|scope| {
        let run = |thread| {
            let _within = runtime.enter();
            ready.wait();
            let started = Instant::now();
            work(thread);
            (started, Instant::now())
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("the work")).collect::<Vec<_>>()
    });
    let first = times.iter().map(|(started, _)| *started).min().expect("a thread");
    times.iter().map(|(_, ended)| *ended - first).max().expect("a thread")
}
