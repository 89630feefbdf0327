//! Follows the changes of a database that other programs write, as Debezium reports them: `cargo run
//! --example debezium < changes.jsonl`. Each line is the value of one message, as Debezium's JSON
//! converter writes it without schemas:
//!
//! ```json
//! {"before": {"id": 42, "name": "Ada"}, "after": {"id": 42, "name": "Ada L."}, "op": "u"}
//! ```
//!
//! A service reads the messages from Kafka or another queue instead, and acknowledges each after
//! `invalidate` has returned `Ok`. One instance is enough, if the instances share a tier with a stream
//! of changes, such as Redis.

use std::{
    io::{BufRead as _, IsTerminal as _, stdin},
    time::Duration,
};

use cache_chain::{ChainCache, Tier, stretto::StrettoStore};
use serde::Deserialize;

/// For a run without input.
const SAMPLE: &str = r#"{"before": null, "after": {"id": 43, "name": "Bo"}, "op": "c", "ts_ms": 1700000000000}
{"before": {"id": 42, "name": "Ada"}, "after": {"id": 42, "name": "Ada L."}, "op": "u"}"#;

/// The parts of a change event that matter here.
#[derive(Deserialize)]
struct Change {
    before: Option<User>,
    after: Option<User>,
    op: String,
}

#[derive(Deserialize)]
struct User {
    id: u64,
}

/// Invalidates the users of a change. A change of the key has two. A truncated table has none: all of
/// them may be gone.
async fn apply(users: &ChainCache<String>, change: &Change) -> cache_chain::Result<()> {
    match change.op.as_str() {
        "t" => users.invalidate_all().await,
        _ => users.invalidate([&change.before, &change.after].into_iter().flatten().map(|user| user.id)).await,
    }
}

/// A change that cannot be read may be a change of any user.
async fn apply_line(users: &ChainCache<String>, line: &str) -> cache_chain::Result<()> {
    match serde_json::from_str(line) {
        Ok(change) => apply(users, &change).await,
        Err(error) => {
            eprintln!("this is no change event, so everything is invalidated: {error}");
            users.invalidate_all().await
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In production there is a Redis tier below. An event that is lost in a queue is not noticed, so
    // the time in memory is limited as well.
    let memory = Tier::new(StrettoStore::new(10_000)?).max_ttl(Duration::from_secs(300));
    let users: ChainCache<String> = ChainCache::builder().tier(memory).build()?;
    users.set_many([(41, "Grace".to_owned()), (42, "Ada".to_owned())]).await?;

    if stdin().is_terminal() {
        for line in SAMPLE.lines() {
            apply_line(&users, line).await?;
        }
        assert_eq!(users.get_many([41, 42]).await?, [Some("Grace".to_owned()), None]);
    } else {
        for line in stdin().lock().lines() {
            apply_line(&users, &line?).await?;
        }
    }
    println!("{}", users.stats());
    Ok(())
}
