//! The invalidation stream of a cluster: client tracking on all primaries, as one stream.
//!
//! The stream has begun when all of its parts have, and is proven until the least moment until which
//! all are. A part ends if its node is not what it was: another process or a replica, or a primary
//! with another configuration. Then the stream ends, and the next one reads the slots anew.
//!
//! A slot may be given to another primary. If the stream follows that one as well, it hears of all
//! changes: of those before at the old node, where the keys are removed, and of those afterwards at the
//! new one. A primary that it does not follow could change keys unheard. So nothing is proven while a
//! slot is on its way to such a node, or with it, as the nodes tell in each heartbeat; and the stream
//! ends as soon as this process itself calls such a node.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cache_core::{Error, ErrorKind, Invalidation, InvalidationSink, backend::lock};
use futures_util::{
    StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};

use super::{
    cluster::{Cluster, slot_reports::SlotReports, watch::Watch},
    tracking::{Shard, Stop, Tracking},
};

/// Runs the stream of the changes to keys with this prefix until it breaks. Also returns whether it has
/// begun.
pub(super) async fn run(
    cluster: &Arc<Cluster>,
    prefix: &str,
    heartbeat: Duration,
    sink: Arc<dyn InvalidationSink>,
) -> (Stop, bool) {
    let watch = match cluster.watch_all(tokio::time::Instant::now()).await {
        Ok(watch) => watch,
        Err(error) => return (Stop::Ended(error), false),
    };
    let reports = Arc::new(SlotReports::new(watch.nodes().len()));
    let whole = Arc::new(Whole::new(watch.nodes().len(), sink, Arc::clone(&reports), Arc::clone(&watch)));
    let part = |(at, node)| {
        let shard = Shard { cluster: Arc::clone(cluster), reports: Arc::clone(&reports), at };
        let tracking = Tracking::new(Arc::clone(node), prefix).of_shard(shard);
        let sink = Arc::new(Part { at, whole: Arc::clone(&whole) });
        async move { tracking.run(heartbeat, sink).await }
    };
    let mut parts: FuturesUnordered<_> = watch.nodes().iter().enumerate().map(part).collect();
    let stop = match select(pin!(watch.over()), parts.next()).await {
        Either::Left(_) => {
            let message = "calls go to a node of the Redis cluster that the invalidation stream does not follow yet";
            Stop::Ended(Error::new(ErrorKind::Unavailable, message))
        }
        Either::Right((stop, _)) => stop.unwrap_or_else(|| Stop::Ended(super::session::closed())),
    };
    cluster.read_slots_soon();
    let has_begun = lock(&whole.state).has_begun;
    (stop, has_begun)
}

/// Joins the parts.
struct Whole {
    sink: Arc<dyn InvalidationSink>,
    reports: Arc<SlotReports>,
    watch: Arc<Watch>,
    state: Mutex<State>,
}

struct State {
    /// For each part, whether it has begun, and the moment until which it is proven.
    parts: Vec<(bool, Option<Instant>)>,
    has_begun: bool,
    proven: Option<Instant>,
}

impl Whole {
    fn new(parts: usize, sink: Arc<dyn InvalidationSink>, reports: Arc<SlotReports>, watch: Arc<Watch>) -> Self {
        let state = State { parts: vec![(false, None); parts], has_begun: false, proven: None };
        Self { sink, reports, watch, state: Mutex::new(state) }
    }

    fn begin(&self, part: usize, mechanism: &'static str) {
        let mut state = lock(&self.state);
        state.parts[part].0 = true;
        if !state.has_begun && state.parts.iter().all(|(has_begun, _)| *has_begun) {
            self.sink.apply(Invalidation::Begin(mechanism));
            state.has_begun = true;
        }
    }

    fn prove(&self, part: usize, moment: Instant) {
        let mut state = lock(&self.state);
        state.parts[part].1 = Some(moment);
        if !state.has_begun || self.watch.is_over() || self.reports.check().is_err() {
            return;
        }
        let least = state.parts.iter().map(|(_, proven)| *proven).min().flatten();
        if let Some(moment) = least.filter(|moment| state.proven.is_none_or(|proven| proven < *moment)) {
            state.proven = Some(moment);
            self.sink.apply(Invalidation::Proven(moment));
        }
    }

    /// Applies a notice. Before the begin nothing is applied, because nothing that was read until
    /// then counts.
    fn apply(&self, notice: Invalidation<'_>) {
        let has_begun = lock(&self.state).has_begun;
        if has_begun {
            self.sink.apply(notice);
        }
    }
}

/// Receives the notices of one node.
struct Part {
    at: usize,
    whole: Arc<Whole>,
}

impl InvalidationSink for Part {
    fn apply(&self, notice: Invalidation<'_>) {
        match notice {
            Invalidation::Begin(mechanism) => self.whole.begin(self.at, mechanism),
            Invalidation::Proven(moment) => self.whole.prove(self.at, moment),
            notice => self.whole.apply(notice),
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;
    use crate::connection::cluster::slot_reports::SlotReport;

    /// What was applied.
    #[derive(Default)]
    struct Applied(Mutex<Vec<String>>, Mutex<Option<Instant>>);

    impl InvalidationSink for Applied {
        fn apply(&self, notice: Invalidation<'_>) {
            if let Invalidation::Proven(moment) = notice {
                *lock(&self.1) = Some(moment);
            } else {
                lock(&self.0).push(format!("{notice:?}"));
            }
        }
    }

    /// The stream of two nodes, of which each holds a half of the slots.
    struct Joint {
        applied: Arc<Applied>,
        reports: Arc<SlotReports>,
        watch: Arc<Watch>,
        parts: [Part; 2],
        start: Instant,
    }

    impl Joint {
        fn new() -> Self {
            let (applied, reports) = (Arc::new(Applied::default()), Arc::new(SlotReports::new(2)));
            let watch = Arc::new(Watch::new(Vec::new()));
            let sink = Arc::clone(&applied);
            let whole = Arc::new(Whole::new(2, sink, Arc::clone(&reports), Arc::clone(&watch)));
            let parts = [0, 1].map(|at| Part { at, whole: Arc::clone(&whole) });
            let joint = Self { applied, reports, watch, parts, start: Instant::now() };
            joint.report(0, "0-8000");
            joint.report(1, "8001-16383");
            joint
        }

        fn report(&self, node: usize, slots: &str) {
            let line = format!("node-{node} 10.0.0.1:7000@17000 myself,master - 0 0 5 connected {slots}\n");
            let info = Value::BulkString(b"cluster_state:ok\r\n".into());
            let report = SlotReport::parse(info, Value::BulkString(line.into())).unwrap();
            self.reports.note(node, report).unwrap();
        }

        /// Proves one part until so many milliseconds, and returns the proof of the whole.
        fn prove(&self, part: usize, millis: u64) -> Option<u128> {
            self.parts[part].apply(Invalidation::Proven(self.start + Duration::from_millis(millis)));
            lock(&self.applied.1).map(|proven| (proven - self.start).as_millis())
        }
    }

    #[test]
    fn the_whole_begins_with_its_last_part() {
        let joint = Joint::new();
        joint.parts[0].apply(Invalidation::Begin("tracking"));
        joint.parts[0].apply(Invalidation::Key(b"before"));
        assert_eq!(*lock(&joint.applied.0), [""; 0]);
        assert_eq!((joint.prove(0, 10), joint.prove(1, 10)), (None, None));
        joint.parts[1].apply(Invalidation::Begin("tracking"));
        joint.parts[1].apply(Invalidation::Everything);
        assert_eq!(*lock(&joint.applied.0), ["Begin(\"tracking\")", "Everything"]);
    }

    #[test]
    fn the_whole_is_proven_as_far_as_its_last_part() {
        let joint = Joint::new();
        joint.parts.iter().for_each(|part| part.apply(Invalidation::Begin("tracking")));
        assert_eq!(joint.prove(0, 10), None);
        assert_eq!(joint.prove(1, 30), Some(10));
        assert_eq!(joint.prove(0, 20), Some(20));
        assert_eq!(joint.prove(0, 50), Some(30));
    }

    #[test]
    fn nothing_is_proven_while_another_node_may_hold_slots() {
        let joint = Joint::new();
        joint.parts.iter().for_each(|part| part.apply(Invalidation::Begin("tracking")));
        joint.prove(0, 10);
        assert_eq!(joint.prove(1, 10), Some(10));
        joint.report(1, "8001-16383 [9000->-node-2]");
        assert_eq!((joint.prove(0, 20), joint.prove(1, 20)), (Some(10), Some(10)));
        joint.report(1, "8001-16383");
        assert_eq!(joint.prove(1, 30), Some(20));
        // Calls go to a node that is not followed.
        joint.watch.end();
        assert_eq!((joint.prove(0, 40), joint.prove(1, 40)), (Some(20), Some(20)));
    }
}
