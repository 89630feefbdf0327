//! The shape of a type: the names and types that a format that is not self-describing relies on.
//!
//! `bincode` and `postcard` write neither names nor types, so a record of `{ first, last }` decodes
//! as `{ last, first }`. The probe finds the names and types: it deserializes the type from dummy
//! values, as often as there are variants of enums to see, and describes what the type asks for.

mod deserializer;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;

use self::{deserializer::Probe, state::State};

/// The largest number of dummy values that are made of one type.
const PASSES: usize = 1024;

/// The largest number of consecutive passes that show nothing new, although there are variants that
/// were not seen.
const IDLE_PASSES: usize = 64;

/// Returns a hash of the names and types that `V` consists of. The same type has the same shape in
/// every process.
pub(super) fn shape_of<V: DeserializeOwned>() -> u32 {
    crc32fast::hash(describe::<V>().as_bytes())
}

/// Returns the description that is hashed. It is incomplete where the type accepts no dummy value,
/// or is too large.
fn describe<V: DeserializeOwned>() -> String {
    let mut state = State::default();
    let mut idle = 0;
    for _ in 0..PASSES {
        let start = state.begin();
        // An assertion in the application's `Deserialize` must not keep the store from being built.
        let value = catch_unwind(AssertUnwindSafe(|| V::deserialize(Probe(&mut state))));
        let accepted = matches!(value, Ok(Ok(_)));
        // The `Drop` of a dummy is code of the application as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
        if !accepted && state.try_another_value(&start) {
            continue;
        }
        idle = if state.has_seen_more(&start) { 0 } else { idle + 1 };
        if state.has_seen_all() || state.is_full() || idle > IDLE_PASSES {
            break;
        }
    }
    state.description
}

#[cfg(all(test, feature = "bincode", feature = "postcard", feature = "json", feature = "messagepack"))]
mod tests;
