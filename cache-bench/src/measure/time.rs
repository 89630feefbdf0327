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

/// The time from the moment when all threads are ready until the last has done its work. Each gets
/// its number.
pub(crate) fn on_threads(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let (ready, runtime, work) = (Barrier::new(threads + 1), Handle::current(), &work);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (ready, runtime) = (&ready, &runtime);
            scope.spawn(move || {
                let _within = runtime.enter();
                ready.wait();
                work(thread);
            });
        }
        ready.wait();
        Instant::now()
    })
    .elapsed()
}
