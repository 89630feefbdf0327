//! The contract suite of invalidation streams on the reference stream, which passes, and on a broken
//! one for each clause, which fails in that clause alone.
#![cfg(feature = "testkit")]

use cache_core::testkit::{SharedMap, StreamHarness, StreamMistake, block_on, broken_stream_clauses};

struct MapHarness(SharedMap<String>);

impl StreamHarness for MapHarness {
    type Store = SharedMap<String>;

    async fn store(&self) -> SharedMap<String> {
        self.0.clone()
    }

    async fn cut(&self) {
        self.0.cut_streams();
    }

    fn prompt(&self) {
        self.0.prove();
    }
}

#[test]
fn the_reference_stream_keeps_the_contract() {
    assert_eq!(block_on(broken_stream_clauses(&MapHarness(SharedMap::new()))), []);
}

#[test]
fn every_clause_catches_its_own_breach() {
    for (mistake, clause) in [
        (StreamMistake::N1, "N1"),
        (StreamMistake::N2, "N2"),
        (StreamMistake::N3, "N3"),
        (StreamMistake::N4, "N4"),
        (StreamMistake::N5, "N5"),
    ] {
        let broken = block_on(broken_stream_clauses(&MapHarness(SharedMap::with_mistake(mistake))));
        assert!(broken.iter().any(|(name, _)| *name == clause), "{mistake:?}: {broken:?}");
    }
}
