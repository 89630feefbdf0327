//! The tests of chains, in one program, so that they are built and linked once.

#[macro_use]
mod support;

mod attacks;
mod attacks_outage;
mod attacks_stale;
mod backfills;
mod behaviour;
mod blocking;
mod call_options;
mod cancellation;
mod claims;
mod claims_batch;
mod claims_options;
mod claims_refresh;
mod coherence;
mod contains;
#[cfg(feature = "derive")]
mod derive;
mod detached_writes;
mod errors;
mod expire;
mod explain;
mod interleavings;
mod load_context;
mod load_interleavings;
mod loads;
mod loads_batch;
mod loads_outcome;
mod max_age;
#[cfg(feature = "metrics")]
mod metrics;
mod nested;
mod nested_chains;
mod operations;
mod operations_unleased;
mod origin;
mod outage;
mod peers;
mod read_flights;
mod reads;
mod reloads;
mod reloads_batch;
mod reloads_failing;
mod resilience;
mod runtimes;
mod serve_stale;
mod serve_stale_again;
mod serve_stale_batch;
mod serve_stale_reads;
mod shared_stores;
mod shutdown;
mod stale;
mod take;
mod touch;
mod writes;
