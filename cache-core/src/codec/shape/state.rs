//! The state of a probe.

use std::{collections::BTreeMap, fmt};

/// The longest description.
const LONGEST: usize = 1 << 20;

/// The most values in one pass.
const STEPS: usize = 1 << 16;

/// The deepest nesting.
const DEPTH: usize = 64;

/// The knowledge of a probe about the type that it probes. Types are distinguished by their Rust
/// names, which are not a part of the description.
#[derive(Default)]
pub(super) struct State {
    pub(super) description: String,
    enums: BTreeMap<&'static str, Enum>,
    /// The number of dummy values that each type has refused.
    refused: BTreeMap<&'static str, usize>,
    /// The type that got the last dummy value, and the number of its dummy values.
    last: Option<(&'static str, usize)>,
    /// The types that are being deserialized.
    open: Vec<&'static str>,
    /// The number of open types that are inside a value of the same type.
    recursing: usize,
    steps: usize,
    /// `true` if the probe itself gave up.
    gave_up: bool,
}

#[derive(Clone, Default)]
struct Enum {
    variants: usize,
    seen: usize,
    visits: usize,
    /// The variant that was complete first, so that it needs no deeper value of the same type.
    shallow: Option<usize>,
}

/// The state before a pass.
pub(super) struct Start {
    length: usize,
    enums: BTreeMap<&'static str, Enum>,
}

/// The type accepts no dummy value, or the probe gave up.
#[derive(Debug)]
pub(super) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the dummy value was refused")
    }
}

impl std::error::Error for Refused {}

impl serde::de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl State {
    /// Begins a pass.
    pub(super) fn begin(&mut self) -> Start {
        self.open.clear();
        (self.last, self.recursing, self.steps, self.gave_up) = (None, 0, 0, false);
        let start = Start { length: self.description.len(), enums: self.enums.clone() };
        self.write("/");
        start
    }

    /// Returns `true` if another dummy value is left for the type that refused the last one. The
    /// pass is undone then.
    pub(super) fn try_another_value(&mut self, start: &Start) -> bool {
        let Some((kind, values)) = self.last.filter(|_| !self.gave_up) else { return false };
        let refused = self.refused.entry(kind).or_default();
        *refused = (*refused + 1).min(values);
        if *refused == values {
            return false;
        }
        self.description.truncate(start.length);
        self.enums.clone_from(&start.enums);
        true
    }

    pub(super) fn has_seen_more(&self, start: &Start) -> bool {
        let seen = |enums: &BTreeMap<_, Enum>| enums.values().map(|of| of.seen).sum::<usize>();
        seen(&self.enums) > seen(&start.enums)
    }

    pub(super) fn has_seen_all(&self) -> bool {
        self.enums.values().all(|of| of.seen == of.variants)
    }

    pub(super) fn is_full(&self) -> bool {
        self.description.len() >= LONGEST
    }

    /// Adds to the description.
    pub(super) fn write(&mut self, text: &str) {
        if !self.is_full() {
            self.description.push_str(text);
        }
    }

    /// Adds names to the description. They are quoted, because `rename` allows any name.
    pub(super) fn write_names(&mut self, names: &[&str]) {
        for name in names {
            self.write(&format!("{name:?} "));
        }
    }

    /// Counts a value. Returns an error if there were too many.
    pub(super) fn step(&mut self) -> Result<(), Refused> {
        self.steps += 1;
        if self.steps > STEPS || self.open.len() > DEPTH || self.is_full() { self.give_up() } else { Ok(()) }
    }

    /// Ends the pass with a description that is incomplete.
    pub(super) fn give_up<T>(&mut self) -> Result<T, Refused> {
        self.gave_up = true;
        Err(Refused)
    }

    /// Returns the position of the dummy value to use for this type, which has `values` of them.
    pub(super) fn choose_value<T>(&mut self, values: usize) -> usize {
        let kind = std::any::type_name::<T>();
        self.last = Some((kind, values));
        // If none was accepted, the first is as good as any.
        self.refused.get(kind).map_or(0, |refused| refused % values)
    }

    /// Begins a value of this type. Returns `true` if it is inside another value of the same type.
    pub(super) fn enter<T>(&mut self) -> bool {
        let kind = std::any::type_name::<T>();
        let recursive = self.open.contains(&kind);
        self.open.push(kind);
        self.recursing += usize::from(recursive);
        recursive
    }

    /// Ends the value that began last.
    pub(super) fn leave(&mut self, recursive: bool) {
        self.open.pop();
        self.recursing -= usize::from(recursive);
    }

    /// Returns `true` if collections must be empty, so that a value of a recursive type is finite.
    pub(super) fn must_end(&self) -> bool {
        self.recursing > 0
    }

    /// Returns the variant to deserialize: one that was not seen, else each in turn.
    pub(super) fn choose_variant<T>(&mut self, variants: usize, recursive: bool) -> usize {
        let of = self.enums.entry(std::any::type_name::<T>()).or_default();
        of.variants = variants;
        of.visits += 1;
        if of.seen < variants {
            of.seen += 1;
            return of.seen - 1;
        }
        of.shallow.filter(|_| recursive).unwrap_or((of.visits - 1) % variants)
    }

    /// Notes that a value of this variant is complete.
    pub(super) fn complete_variant<T>(&mut self, variant: usize) {
        if let Some(of) = self.enums.get_mut(std::any::type_name::<T>()) {
            of.shallow.get_or_insert(variant);
        }
    }
}
