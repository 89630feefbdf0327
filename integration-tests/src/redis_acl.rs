//! The permissions that the README of store-redis documents.

/// Returns the rules of the blocks of the README that begin with `+`: what a store needs, and with
/// `plain` also what it needs for values without an envelope.
///
/// # Panics
///
/// Panics if the README has no such blocks.
pub fn documented_permissions(plain: bool) -> Vec<String> {
    let readme = include_str!("../../store-redis/README.md");
    let blocks: Vec<&str> = readme.split("```").filter(|block| block.starts_with("text\n+")).collect();
    let [store, plain_only] = blocks[..] else { panic!("the README has {} blocks of permissions", blocks.len()) };
    let more = if plain { plain_only } else { "" };
    let rules = store.split_whitespace().chain(more.split_whitespace());
    rules.filter(|rule| rule.starts_with('+')).map(str::to_owned).collect()
}
