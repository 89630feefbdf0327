//! The flight map under shuttle: waiters that come, are dropped at any of their polls, or are kept and never polled again;
//! work that yields, is woken from another thread, or panics; keys that are detached meanwhile.
//!
//! Whatever happens: everybody who goes on waiting gets what the work brought or its panic; once a load has begun, an older one
//! of that key is never polled again, unless the key was detached; and when all are gone the map is empty and the work is
//! dropped.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use shuttle::{future as executor, thread};

use super::*;

/// What is left out of the protocol, to see that the model notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// An event that comes while the work is polled wakes only those who find it flying.
    LostEvent,
    /// The last waiter leaves its flight in the map.
    LeftListed,
    /// What has landed stays in the map.
    LandedListed,
    /// A landing wakes nobody.
    SilentLanding,
    /// A flight of which nobody is left can be joined.
    AbandonedJoined,
    /// Who leaves last takes the flight off the list that has come in the place of his.
    OthersUnlisted,
    /// What the attendant polls while the last waiter leaves is kept.
    ParkedAbandoned,
    /// The attendant is not told that the last waiter has left.
    AttendantLeftAsleep,
}

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    /// Polls of work when newer work of the key had begun. A panic there would count as the work's.
    static OVERLAPS: Cell<usize> = const { Cell::new(0) };
}

/// Whether this fault is to be made. Shuttle runs all its threads on one of the system's.
pub(crate) fn makes(fault: Fault) -> bool {
    FAULT.get() == Some(fault)
}

/// How the work goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    /// It yields so often, waking itself, and ends.
    Yields(usize),
    /// It waits for a thread that wakes it.
    Woken,
    /// It yields once and panics.
    Panics,
}

/// Counts the work that there is, and numbers it.
#[derive(Default)]
struct Count {
    existing: AtomicUsize,
    last: AtomicUsize,
}

struct UnderWay {
    count: Arc<Count>,
    number: usize,
}

impl UnderWay {
    fn new(count: &Arc<Count>) -> Self {
        count.existing.fetch_add(1, SeqCst);
        let number = 1 + count.last.fetch_add(1, SeqCst);
        Self { count: Arc::clone(count), number }
    }

    fn is_last(&self) -> bool {
        self.count.last.load(SeqCst) == self.number
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.count.existing.fetch_sub(1, SeqCst);
    }
}

fn work(plan: Plan, count: &Arc<Count>, alone: bool) -> Work<u32> {
    let under_way = Arc::new(UnderWay::new(count));
    let observed = Arc::clone(&under_way);
    let mut work: Work<u32> = Box::pin(async move {
        match plan {
            Plan::Yields(times) => {
                for _ in 0..times {
                    executor::yield_now().await;
                }
            }
            Plan::Woken => woken_elsewhere().await,
            Plan::Panics => {
                executor::yield_now().await;
                std::panic::panic_any(Planned);
            }
        }
        drop(under_way);
        7
    });
    Box::pin(std::future::poll_fn(move |context| {
        if alone && !observed.is_last() {
            OVERLAPS.set(OVERLAPS.get() + 1);
        }
        work.as_mut().poll(context)
    }))
}

/// The panic that is part of the plan.
struct Planned;

/// Is ready once another thread has woken it.
fn woken_elsewhere() -> impl Future<Output = ()> {
    let state = Arc::new(Mutex::new((false, None::<Waker>)));
    let other = Arc::clone(&state);
    let mut helper = Some(move || {
        let waker = {
            let mut state = lock(&other);
            state.0 = true;
            state.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    });
    std::future::poll_fn(move |context: &mut Context<'_>| {
        if let Some(helper) = helper.take() {
            thread::spawn(helper);
        }
        let mut state = lock(&state);
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(context.waker().clone());
        Poll::Pending
    })
}

/// What a caller does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    /// Waits to the end.
    Stays,
    /// Is dropped after so many polls.
    Leaves(usize),
    /// Is polled so often, then kept, and dropped when all others have got theirs.
    Sleeps(usize),
    /// Detaches the key and comes then.
    Detaches,
}

/// Polls at most so often.
async fn polled<F: Future + Unpin>(times: usize, future: &mut F) -> Option<F::Output> {
    let mut left = times;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        Pin::new(&mut *future).poll(context).map(Some)
    })
    .await
}

fn scenario(callers: &'static [Caller], plan: Plan, attended: bool) {
    let flights = Flights::<u32>::new();
    let count = Arc::new(Count::default());
    let key = Key::new("k").expect("a key");
    // A flight that was detached may be under way beside the one that took its place.
    let alone = !callers.contains(&Caller::Detaches);
    let tasks: Vec<_> = callers
        .iter()
        .map(|&caller| {
            let (flights, count, key) = (flights.clone(), Arc::clone(&count), key.clone());
            thread::spawn(move || {
                executor::block_on(async move {
                    if caller == Caller::Detaches {
                        flights.detach(&key);
                    }
                    let (mut waiter, began) = flights.join(&key, || work(plan, &count, alone));
                    if attended && began {
                        let attendant = waiter.attendant();
                        let attending = thread::spawn(move || executor::block_on(attendant));
                        ATTENDING.with(|threads| threads.lock().expect("no panic").push(attending));
                    }
                    let outcome = match caller {
                        Caller::Stays | Caller::Detaches => waiter.await,
                        Caller::Leaves(times) => return polled(times, &mut waiter).await.map_or((), check(plan)),
                        Caller::Sleeps(times) => match polled(times, &mut waiter).await {
                            Some(outcome) => outcome,
                            None => return SLEEPERS.with(|sleepers| lock(sleepers).push(waiter)),
                        },
                    };
                    check(plan)(outcome);
                });
            })
        })
        .collect();
    for task in tasks {
        task.join().expect("a caller");
    }
    SLEEPERS.with(|sleepers| drop(std::mem::take(&mut *lock(sleepers))));
    let attending = ATTENDING.with(|threads| std::mem::take(&mut *threads.lock().expect("no panic")));
    for attendant in attending {
        attendant.join().expect("an attendant");
    }
    assert_eq!(flights.len(), 0, "a flight is left in the map");
    assert_eq!(OVERLAPS.replace(0), 0, "two loads of one key at once");
    assert_eq!(count.existing.load(SeqCst), 0, "work is left that nobody waits for");
}

shuttle::thread_local! {
    /// Who is kept and not polled.
    static SLEEPERS: Mutex<Vec<Waiter<u32>>> = Mutex::new(Vec::new());
}

thread_local! {
    /// Those who drive without waiting. One of the system's threads runs all of shuttle's.
    static ATTENDING: std::sync::Mutex<Vec<thread::JoinHandle<()>>> = const { std::sync::Mutex::new(Vec::new()) };
}

fn check(plan: Plan) -> impl Fn(Result<Arc<u32>>) {
    move |outcome| match outcome {
        Ok(value) => assert!(*value == 7 && plan != Plan::Panics),
        Err(error) => assert!(error.kind() == ErrorKind::Panicked && plan == Plan::Panics, "{error:?}"),
    }
}

use Caller::{Detaches, Leaves, Sleeps, Stays};

const PLANS: [Plan; 4] = [Plan::Yields(0), Plan::Yields(2), Plan::Woken, Plan::Panics];

const SCENARIOS: &[&[Caller]] = &[
    &[Stays],
    &[Stays, Stays, Stays],
    &[Leaves(0), Stays],
    &[Leaves(1), Stays],
    &[Leaves(2), Stays, Stays],
    &[Leaves(1), Leaves(2), Leaves(3)],
    &[Leaves(0), Leaves(1)],
    &[Sleeps(1), Stays],
    &[Sleeps(1), Sleeps(2), Stays],
    &[Sleeps(1), Leaves(1), Stays],
    &[Stays, Detaches],
    &[Leaves(1), Detaches, Stays],
];

/// Every scenario with every plan, without an attendant and with one.
fn all() -> impl Iterator<Item = (&'static [Caller], Plan, bool)> {
    let planned = SCENARIOS.iter().flat_map(|callers| PLANS.map(|plan| (*callers, plan)));
    planned.flat_map(|(callers, plan)| [false, true].map(|attended| (callers, plan, attended)))
}

fn quiet() {
    // Planned panics need no report; the others do.
    std::panic::set_hook(Box::new(|panic| {
        if !panic.payload().is::<Planned>() {
            eprintln!("{panic}");
        }
    }));
}

#[test]
fn g3_no_waiter_hangs_and_nothing_is_left() {
    quiet();
    for (callers, plan, attended) in all() {
        shuttle::check_random(move || scenario(callers, plan, attended), 1_000);
        // There must be something to run at the same time.
        if callers.len() > 1 {
            shuttle::check_pct(move || scenario(callers, plan, attended), 300, 3);
        }
    }
}

#[test]
fn every_guard_that_is_taken_away_is_missed() {
    quiet();
    let faults =
        [Fault::LostEvent, Fault::LeftListed, Fault::LandedListed, Fault::SilentLanding, Fault::AbandonedJoined];
    for fault in faults {
        let found = catch_unwind(AssertUnwindSafe(|| {
            for (callers, plan, attended) in all() {
                let run = move || {
                    FAULT.set(Some(fault));
                    scenario(callers, plan, attended);
                };
                shuttle::check_random(run, 2_000);
            }
        }));
        FAULT.set(None);
        assert!(found.is_err(), "nobody notices {fault:?}");
    }
}
