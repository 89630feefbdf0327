//! Every order in which concurrent operations can take effect, or many random ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Gate, Operation, Phase, ScriptedStore, yield_now};
use crate::Store;

/// Orders to try: a search through all of them, or random ones.
///
/// ```
/// use cache_core::testkit::Schedules;
///
/// let mut schedules = Schedules::all();
/// let mut tried = Vec::new();
/// while schedules.next() {
///     tried.push((schedules.choose(2), schedules.choose(3)));
/// }
/// assert_eq!(tried, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
/// ```
#[derive(Debug)]
pub struct Schedules {
    /// The choices of this schedule and how many there were to choose from.
    path: Vec<(usize, usize)>,
    at: usize,
    tried: usize,
    random: Option<Random>,
}

#[derive(Debug)]
struct Random {
    state: u64,
    left: usize,
}

impl Schedules {
    /// All of them, depth first.
    pub fn all() -> Self {
        Self { path: Vec::new(), at: 0, tried: 0, random: None }
    }

    /// This many random ones, the same for the same seed.
    pub fn random(seed: u64, count: usize) -> Self {
        Self { random: Some(Random { state: seed, left: count }), ..Self::all() }
    }

    /// Returns the number of schedules that were tried.
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// Goes to the next schedule, if there is one.
    #[allow(clippy::should_implement_trait, reason = "it yields itself, not an item")]
    pub fn next(&mut self) -> bool {
        self.at = 0;
        if let Some(random) = &mut self.random {
            self.path.clear();
            let more = random.left > 0;
            random.left = random.left.saturating_sub(1);
            self.tried += usize::from(more);
            return more;
        }
        if self.tried > 0 {
            // The last choice that has an alternative takes it; what came after is forgotten.
            while self.path.last().is_some_and(|(choice, of)| choice + 1 == *of) {
                self.path.pop();
            }
            let Some((choice, _)) = self.path.last_mut() else { return false };
            *choice += 1;
        }
        self.tried += 1;
        true
    }

    /// The next choice of this schedule, from 0 to below `of`.
    ///
    /// # Panics
    ///
    /// If the test is not deterministic: replayed, it has another number of choices.
    pub fn choose(&mut self, of: usize) -> usize {
        if self.at == self.path.len() {
            let choice = self.random.as_mut().map_or(0, |random| random.below(of));
            self.path.push((choice, of));
        }
        let (choice, before) = self.path[self.at];
        assert_eq!(of, before, "the test is not deterministic");
        self.at += 1;
        choice
    }

    /// The choices of this schedule, to report a failure.
    pub fn path(&self) -> Vec<usize> {
        self.path.iter().map(|(choice, _)| *choice).collect()
    }
}

impl Random {
    /// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA
    /// 2014).
    fn below(&mut self, of: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % of as u64).expect("below a usize")
    }
}

/// Lets the effects of scripted stores happen one at a time, in the order of a schedule.
///
/// It needs an executor that runs all tasks on one thread, such as tokio's current-thread runtime.
/// A clone is the same turnstile.
#[derive(Clone, Debug, Default)]
pub struct Turnstile(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Gate>,
    running: Option<Gate>,
}

impl Turnstile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the store under control.
    pub fn control<S: Store>(&self, store: &ScriptedStore<S>) {
        let turnstile = self.clone();
        store.at_every_step(move |operation, phase| turnstile.step(operation, phase));
    }

    fn step(&self, _operation: Operation, phase: Phase) -> impl Future<Output = ()> + Send + use<> {
        let gate = Gate::default();
        match phase {
            Phase::Before => self.state().waiting.push(gate.clone()),
            Phase::After => {
                gate.open();
                if let Some(running) = self.state().running.take() {
                    running.open();
                }
            }
        }
        gate.passed()
    }

    /// Lets one effect after the other happen, as the schedule chooses, until none is left to
    /// happen.
    pub async fn drive(&self, schedules: &mut Schedules) {
        loop {
            // Everybody goes on as far as possible. What lies between two effects is a few polls at
            // most.
            for _ in 0..16 {
                yield_now().await;
            }
            let done = {
                let mut state = self.state();
                if state.waiting.is_empty() {
                    return;
                }
                let of = state.waiting.len();
                let next = state.waiting.remove(schedules.choose(of));
                let done = Gate::default();
                state.running = Some(done.clone());
                next.open();
                done
            };
            done.passed().await;
        }
    }
}
