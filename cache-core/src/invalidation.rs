//! Invalidation streams: the changes that others make to a shared store.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::Error;

/// The changes of a store that several processes share, as they happen: writes of this process, of
/// other processes, and of any other program.
///
/// This trait is for authors of backends. A store returns its stream by
/// [`Store::invalidations`](crate::Store::invalidations). A chain runs the stream and marks the
/// entries of changed keys in the tiers above as suspect: the next read asks the store.
///
/// # Contract
///
/// - **N1** A stream applies [`Begin`](Invalidation::Begin) first, after the backend has confirmed
///   that it announces changes. All changes after that are announced.
/// - **N2** [`Proven`](Invalidation::Proven) with a moment means that the stream has applied all
///   changes that were made before that moment, since the last `Begin` or `Gap`. The stream applies
///   one again at each heartbeat, for the moment at which an earlier heartbeat was sent.
/// - **N3** A changed, removed or expired key is announced by [`Key`](Invalidation::Key), or by
///   [`Everything`](Invalidation::Everything). Announcing too much is correct and costs a check.
/// - **N4** If changes may have been lost, the stream ends, or it applies
///   [`Gap`](Invalidation::Gap). It also ends if a heartbeat is not answered within
///   [`timeout`](Self::timeout), and if the server is not the one any more that the store writes to.
/// - **N5** Nothing is `Proven` after the future of [`run`](Self::run) has ended or was dropped.
pub trait InvalidationStream: fmt::Debug + Send + Sync + 'static {
    /// Returns the time limit of one heartbeat.
    fn timeout(&self) -> Duration;

    /// Runs the stream until it breaks, and returns the reason. The caller runs it again after a
    /// pause. Sends a heartbeat each `heartbeat`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it ends the stream.
    fn run(
        self: Arc<Self>,
        heartbeat: Duration,
        sink: Arc<dyn InvalidationSink>,
    ) -> Pin<Box<dyn Future<Output = Error> + Send>>;
}

/// The receiver of a stream. It does not block, so a driver may call it where it reads its
/// connection.
pub trait InvalidationSink: Send + Sync + 'static {
    /// Applies a notice. Notices are applied in the order in which they arrive.
    fn apply(&self, notice: Invalidation<'_>);
}

/// A notice of an [`InvalidationStream`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Invalidation<'a> {
    /// From now on, changes are announced by this mechanism, such as "tracking".
    Begin(&'static str),
    /// The key with these bytes has changed. Any bytes are accepted; those that are no key are
    /// counted.
    Key(&'a [u8]),
    /// Any key may have changed, as after a `FLUSHALL`.
    Everything,
    /// Notices may have been lost. Later changes are announced again.
    Gap,
    /// Something arrived that is no notice of this stream.
    Unknown,
    /// All changes before this moment have been announced.
    Proven(Instant),
}
