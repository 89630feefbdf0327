//! The server behind a connection: its identity, its clock, and the validity of its records.

use std::sync::Mutex;

use cache_core::{
    Moment, SharedClock,
    backend::{Binding, Life, ServerClock, lock},
};
use redis::Value;

use super::reply::info_field;

/// The validity of records: those of the current run of the server are valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Validity {
    /// The run of the server that records are bound to. `None` if it is unknown or irrelevant;
    /// records of every run are valid then.
    epoch: Option<u32>,
    /// Records that were written before this time of the server's clock are invalid. In Unix
    /// milliseconds; 0 until the connection has led to a second server.
    pub(crate) since: u64,
}

impl Validity {
    /// Returns the number of the run, `None` if it is unknown or irrelevant.
    pub(super) fn run(self) -> Option<u32> {
        self.epoch
    }

    /// Returns the binding of a new record.
    pub(crate) fn binding(self, key: &[u8]) -> Binding<'_> {
        Binding::new(key, self.epoch.unwrap_or_default())
    }

    /// Returns `true` if a record is valid that is bound to this epoch and was written at this time
    /// of the server's clock. Records of format versions without an epoch are valid until the
    /// connection leads to a second server.
    pub(crate) fn admits(self, epoch: Option<u32>, created: u64) -> bool {
        match epoch {
            Some(epoch) => self.epoch.is_none_or(|run| run == epoch) && created >= self.since,
            None => self.since == 0,
        }
    }
}

/// The largest number of milliseconds that a record may be ahead of the latest possible time on the
/// server: the estimates of two processes drift apart until they are renewed. A record further
/// ahead was written before the server's clock was set back.
pub(crate) const AHEAD_MILLIS: u64 = 1000;

/// A consistent view of the server, with a clock that is fresh.
#[derive(Clone, Copy)]
pub(crate) struct ServerSnapshot {
    pub(crate) validity: Validity,
    pub(super) clock: ServerClock,
}

impl ServerSnapshot {
    /// Returns the earliest possible time on the server, in Unix *micro*seconds. New records are
    /// dated by it.
    pub(crate) fn earliest_micros(&self, now: Moment) -> u64 {
        // If the server's clock was set back, new records must still be valid.
        self.clock.earliest_micros(now).max(self.validity.since.saturating_mul(1000))
    }

    /// Returns the latest possible time on the server, in Unix milliseconds.
    pub(crate) fn latest(&self, now: Moment) -> u64 {
        self.clock.latest(now)
    }

    /// Returns `true` if a record of this epoch and life counts at this time of the server.
    ///
    /// The age of a record from the future is unknown. If its life has an end, it counts as
    /// expired.
    pub(crate) fn admits(&self, epoch: Option<u32>, life: Life, latest: u64) -> bool {
        let has_end = life.expires.is_some() || life.stale.is_some();
        let is_future = has_end && life.created > latest.saturating_add(AHEAD_MILLIS);
        !is_future && self.validity.admits(epoch, life.created)
    }
}

/// The state of the server, which all links share.
///
/// A server that restarts from its file, or a replica that takes its place, can hold records again
/// that were deleted or replaced. It has another run id or, as a replica that was a primary before,
/// another replication history. Every new connection asks for both before it carries anything else,
/// and every record is bound to them.
pub(crate) struct Server {
    pub(super) clock: SharedClock,
    /// `true` if restarts are trusted to lose nothing.
    trusted: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    run: Option<String>,
    validity: Validity,
    /// The last reading of a server's clock.
    reading: Option<ServerClock>,
    /// `true` if the links still lead to the server whose clock was read.
    is_current: bool,
}

/// What the server of a node must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Any server that the user names, be it a replica.
    Any,
    /// A primary: a replica is refused, because sentinels name the right server.
    Primary,
    /// A primary that holds some of the keys.
    Shard,
}

/// The identity that a server reported.
#[derive(Default)]
pub(super) struct Identity {
    /// The run id of its process. `None` if the server did not report it; then each connection may
    /// lead to another server.
    pub(super) process: Option<String>,
    /// Identifies the time during which this process has been a primary without interruption: the run
    /// id and, for servers that fail over, the id of its replication history, which changes when a
    /// replica becomes the primary.
    pub(super) run: Option<String>,
    pub(super) is_replica: bool,
}

impl Identity {
    /// Parses the replies to `INFO server` and `INFO replication`, which the user may lack the
    /// permission for.
    ///
    /// The history also changes when a primary gets its first replica, which only those notice that
    /// ask again. A single server is asked too rarely for that.
    pub(super) fn parse(server: &Value, replication: &Value, role: Role) -> Self {
        let process = info_field(server, "run_id:");
        let history = info_field(replication, "master_replid:").filter(|_| role != Role::Any);
        let run = process.as_ref().map(|process| match &history {
            Some(history) => format!("{process}/{history}"),
            None => process.clone(),
        });
        let is_replica = info_field(replication, "role:").is_some_and(|role| role == "slave");
        Self { process, run, is_replica }
    }

    /// Returns the number that records carry. The records on a replica carry that of its primary,
    /// which it does not know.
    fn epoch(&self) -> Option<u32> {
        self.run.as_deref().filter(|_| !self.is_replica).map(Binding::epoch_of)
    }
}

impl Server {
    pub(super) fn new(clock: SharedClock, trusted: bool) -> Self {
        Self { clock, trusted, state: Mutex::default() }
    }

    /// Returns the validity, and the clock if the links still lead to its server.
    pub(super) fn view(&self) -> (Validity, Option<ServerClock>) {
        let state = lock(&self.state);
        (state.validity, state.reading.filter(|_| state.is_current))
    }

    /// Returns `true` if this may be the run of the server that the links lead to.
    pub(super) fn may_be(&self, run: &str) -> bool {
        lock(&self.state).run.as_ref().is_none_or(|known| known == run)
    }

    /// Returns `true` if the links lead to the process that has reported this identity.
    pub(super) fn is_process(&self, identity: &Identity) -> bool {
        let state = lock(&self.state);
        let process = state.run.as_ref().and_then(|run| run.split('/').next());
        process.is_some() && process == identity.process.as_deref()
    }

    /// Returns which records are valid.
    pub(super) fn validity(&self) -> Validity {
        lock(&self.state).validity
    }

    /// Stores a reading of the server's clock.
    pub(super) fn set_clock(&self, clock: ServerClock) {
        let mut state = lock(&self.state);
        (state.reading, state.is_current) = (Some(clock), true);
    }

    /// Requires a new reading of the clock, because the next connection may lead to another server.
    pub(super) fn invalidate_clock(&self) {
        lock(&self.state).is_current = false;
    }

    /// Stores the identity that the server reported at `millis` by its own clock, `now` by the
    /// local one. `reconnected` tells whether the link was connected before.
    pub(super) fn identify(&self, identity: Identity, reconnected: bool, millis: u64, now: Moment) {
        let epoch = identity.epoch();
        let mut state = lock(&self.state);
        let has_changed = match (&state.run, &identity.run) {
            (Some(known), Some(run)) => known != run,
            _ => reconnected,
        };
        if !self.trusted {
            state.validity.epoch = epoch;
            if has_changed {
                let previous_clock = state.reading.map_or(0, |clock| clock.latest(now));
                state.validity.since = match epoch {
                    // All records of this run were dated by this server.
                    Some(_) => millis,
                    // Records of the previous server were dated by its clock, which may have been
                    // ahead.
                    None => millis.max(previous_clock).max(state.validity.since),
                };
            }
        }
        if identity.run.is_some() {
            state.run = identity.run;
        }
    }
}

#[cfg(test)]
mod tests {
    use cache_core::SystemClock;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    /// Returns `since` after these connections: (run id, whether the link was connected before).
    fn since_after(connections: &[(Option<&str>, bool)]) -> u64 {
        let server = Server::new(SystemClock::shared(), false);
        for (count, (run_id, reconnected)) in (1..).zip(connections) {
            identify(&server, *run_id, *reconnected, count * 10, at(count));
        }
        server.validity().since
    }

    /// Connects to a primary.
    fn identify(server: &Server, run_id: Option<&str>, reconnected: bool, millis: u64, now: Moment) {
        let identity = Identity { run: run_id.map(str::to_owned), ..Identity::default() };
        server.identify(identity, reconnected, millis, now);
    }

    #[test]
    fn another_run_id_makes_older_records_invalid() {
        let (a, b) = (Some("a"), Some("b"));
        assert_eq!(since_after(&[(a, false), (a, false), (a, true), (a, true)]), 0, "links and reconnections");
        assert_eq!(since_after(&[(a, false), (b, true), (b, true)]), 20);
        assert_eq!(since_after(&[(a, false), (b, false)]), 20, "a link that is new");
        assert_eq!(since_after(&[(a, false), (b, true), (a, true)]), 30);
    }

    #[test]
    fn without_a_run_id_each_reconnection_counts_as_another_server() {
        let a = Some("a");
        assert_eq!(since_after(&[(None, false), (None, false)]), 0);
        assert_eq!(since_after(&[(None, false), (None, true), (None, true)]), 30);
        assert_eq!(since_after(&[(a, false), (None, true), (a, true)]), 20, "the run id is the same again");
        assert_eq!(since_after(&[(None, false), (a, true), (a, true)]), 20);
    }

    /// Returns the validity after a server whose clock shows 50 s, and 40 s later another whose
    /// clock shows `next` seconds.
    fn across_clocks(run_ids: [Option<&str>; 2], next: u64) -> Validity {
        let server = Server::new(SystemClock::shared(), false);
        identify(&server, run_ids[0], false, 50_000, at(0));
        server.set_clock(ServerClock::new(50_000_000, at(0), at(1)));
        server.invalidate_clock();
        identify(&server, run_ids[1], true, next * 1000, at(40_000));
        server.validity()
    }

    #[test]
    fn a_clock_that_is_behind_admits_nothing_of_the_server_before() {
        let named = across_clocks([Some("a"), Some("b")], 10);
        assert_eq!(named, Validity { epoch: Some(Binding::epoch_of("b")), since: 10_000 });
        assert!(!named.admits(Some(Binding::epoch_of("a")), 90_000), "a record of the other server");
        assert!(!named.admits(None, 90_000), "a record of an older format");
        assert!(named.admits(named.epoch, 10_000) && !named.admits(named.epoch, 9_999));
        // Without a run id only the clocks decide: the later of the two, one millisecond above the
        // estimate.
        for (next, since) in [(10, 90_001), (90, 90_001), (95, 95_000)] {
            let unnamed = across_clocks([None, None], next);
            assert_eq!(unnamed, Validity { epoch: None, since });
            assert!(!unnamed.admits(Some(0), 90_000));
        }
    }

    #[test]
    fn a_trusted_server_is_one_epoch() {
        let server = Server::new(SystemClock::shared(), true);
        for (run_id, millis) in [(Some("a"), 10), (None, 50), (Some("c"), 20)] {
            identify(&server, run_id, true, millis, at(millis));
            assert_eq!(server.validity(), Validity::default());
        }
        assert!([None, Some(0), Some(1)].into_iter().all(|epoch| server.validity().admits(epoch, 0)));
    }
}
