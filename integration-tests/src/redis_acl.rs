//! The permissions that the README of store-redis documents.

/// The blocks of the README, in their order: what a store needs, what client tracking, pub/sub and
/// values without an envelope need in addition, what a cluster and confirmed writes do, and what the
/// user of the sentinels needs.
fn blocks() -> [&'static str; 7] {
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
    let [store, _, _, plain_only, ..] = blocks();
    rules(store).chain(rules(if plain { plain_only } else { "" })).collect()
}

/// Returns the rules that the invalidation stream of a namespace needs in addition, by client tracking
/// or by pub/sub.
///
/// # Panics
///
/// Panics if the README has no such blocks.
pub fn documented_stream_permissions(pubsub: bool, namespace: &str) -> Vec<String> {
    let [_, by_tracking, by_pubsub, ..] = blocks();
    rules(if pubsub { by_pubsub } else { by_tracking }).map(|rule| rule.replace("<namespace>", namespace)).collect()
}

/// Returns the rules that a store on a cluster needs in addition.
///
/// # Panics
///
/// Panics if the README has no such block.
pub fn documented_cluster_permissions() -> Vec<String> {
    let [_, _, _, _, cluster, ..] = blocks();
    rules(cluster).collect()
}

/// Returns the rules that writes which replicas confirm need in addition.
///
/// # Panics
///
/// Panics if the README has no such block.
pub fn documented_wait_permissions() -> Vec<String> {
    let [_, _, _, _, _, wait, _] = blocks();
    rules(wait).collect()
}

/// Returns the rules that the user of the sentinels needs.
///
/// # Panics
///
/// Panics if the README has no such block.
pub fn documented_sentinel_permissions() -> Vec<String> {
    let [_, _, _, _, _, _, sentinel] = blocks();
    rules(sentinel).collect()
}
