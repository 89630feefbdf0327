//! The time of a backend, for callers that compare moments across processes.

/// The bounds of the current time by the clock of a backend; see
/// [`Store::server_time`](crate::Store::server_time).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerTime {
    /// A number of the run of the server. Times of different runs are not comparable.
    pub run: u32,
    /// The earliest possible time, in Unix milliseconds.
    pub earliest: u64,
    /// The latest possible time, in Unix milliseconds.
    pub latest: u64,
}
