//! The permissions that the README of store-redis documents.

/// The blocks of the README, in their order: what a store needs, what client tracking and pub/sub
/// need in addition, and what it needs for values without an envelope.
fn blocks() -> [&'static str; 4] {
    let readme = include_str!("../../store-redis/README.md");
    let blocks: Vec<&str> = readme.split("```").filter(|block| block.starts_with("text\n+")).collect();
    let count = blocks.len();
    blocks.try_into().unwrap_or_else(|_| panic!("the README has {count} blocks of permissions"))
}

fn rules(block: &str) -> impl Iterator<Item = String> {
    block.split_whitespace().filter(|rule| rule.starts_with(['+', '&'])).map(str::to_owned)
}

/// Returns the rules that a store needs, and with `plain` also those for values without an envelope.
///
/// # Panics
///
/// Panics if the README has no such blocks.
pub fn documented_permissions(plain: bool) -> Vec<String> {
    let [store, _, _, plain_only] = blocks();
    rules(store).chain(rules(if plain { plain_only } else { "" })).collect()
}

/// Returns the rules that the invalidation stream of a namespace needs in addition, by client tracking
/// or by pub/sub.
///
/// # Panics
///
/// Panics if the README has no such blocks.
pub fn documented_stream_permissions(pubsub: bool, namespace: &str) -> Vec<String> {
    let [_, by_tracking, by_pubsub, _] = blocks();
    rules(if pubsub { by_pubsub } else { by_tracking }).map(|rule| rule.replace("<namespace>", namespace)).collect()
}
