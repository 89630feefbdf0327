use std::sync::Mutex;

use super::{Schedules, Turnstile, join_all};
use crate::{Cache, Result};

/// An operation of a task of a [`race`] on the one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the methods of `Cache` say what each is")]
pub enum Do {
    Get,
    GetMany,
    /// No two writes of a race may write the same value, nor what was there before.
    Set(u32),
    Del,
    Clear,
}

/// An operation that has ended, with the number of operations that ended before it.
#[derive(Clone, Copy, Debug)]
struct Span {
    what: Do,
    result: Option<u32>,
    started: usize,
    ended: usize,
}

/// Lets tasks race for one key in the order of a schedule, and checks promise G1: no read returns a
/// value that was replaced or removed, by an operation that was over, before the read began.
///
/// # Panics
///
/// If the promise is broken, an operation fails, or one does not come to its end.
pub async fn race<C: Cache<Value = u32>>(
    cache: &C,
    key: &str,
    tasks: &[&[Do]],
    turnstile: &Turnstile,
    schedules: &mut Schedules,
) {
    let history = Mutex::new(Vec::<Span>::new());
    let over = || history.lock().map_or(0, |history| history.len());
    let mut racing = Box::pin(join_all(tasks.iter().map(|task| async {
        for &what in *task {
            let started = over();
            let result = perform(cache, key, what).await.unwrap_or_else(|error| panic!("{what:?} failed: {error:?}"));
            let mut history = history.lock().expect("no panic meanwhile");
            let ended = history.len() + 1;
            history.push(Span { what, result, started, ended });
        }
    })));
    let mut driving = Box::pin(turnstile.drive(schedules));
    let mut finished = false;
    std::future::poll_fn(|context| {
        finished = finished || racing.as_mut().poll(context).is_ready();
        driving.as_mut().poll(context)
    })
    .await;
    drop(driving);
    let path = schedules.path();
    assert!(finished, "a task hangs; schedule {path:?}");
    drop(racing);
    check(&history.into_inner().expect("no panic meanwhile"), &path);
}

async fn perform<C: Cache<Value = u32>>(cache: &C, key: &str, what: Do) -> Result<Option<u32>> {
    match what {
        Do::Get => cache.get(key).await,
        Do::GetMany => cache.get_many([key]).await.map(|found| found.into_iter().flatten().next()),
        Do::Set(value) => cache.set(key, value).await.map(|()| None),
        Do::Del => cache.del(key).await.map(|()| None),
        Do::Clear => cache.clear().await.map(|()| None),
    }
}

fn check(history: &[Span], path: &[usize]) {
    let is_read = |span: &&Span| matches!(span.what, Do::Get | Do::GetMany);
    for read in history.iter().filter(is_read) {
        let Some(value) = read.result else { continue };
        let origin = history.iter().find(|span| span.what == Do::Set(value));
        // A value that no task wrote was there from the start. A write that has not ended is older
        // than none.
        let written = origin.map_or(0, |write| write.ended);
        for other in history.iter().filter(|span| !is_read(span) && span.what != Do::Set(value)) {
            let is_newer = other.started >= written;
            let was_over = other.ended <= read.started;
            assert!(!(is_newer && was_over), "{read:?} is older than {other:?}; schedule {path:?}");
        }
    }
}
