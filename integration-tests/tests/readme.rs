//! The first example of the README, compiled and run.

use std::{path::Path, time::Duration};

use integration_tests::RedisServer;

/// The text stands in the README, but for the URL and for `main`.
async fn example(url: &str) -> Result<(), Box<dyn std::error::Error>> {
    // README
    use cache_chain::{ChainCache, quick_cache::QuickCacheStore, redis::RedisStore};

    #[derive(Clone, serde_derive::Serialize, serde_derive::Deserialize)]
    struct User {
        name: String,
    }

    let users: ChainCache<User> = ChainCache::builder()
        .tier(QuickCacheStore::new(100_000)?)
        .tier(RedisStore::builder(url).namespace("users").connect().await?)
        .build()?;

    let ada = User { name: "Ada".into() };
    users.set("42", ada.clone()).await?;
    users.set_with_ttl(("acme", 42), ada, Duration::from_secs(60)).await?;
    let found: Option<User> = users.get("42").await?;
    assert_eq!(found.unwrap().name, "Ada");
    let (user, ttl) = users.get_with_ttl(("acme", 42)).await?.unwrap();
    println!("{} lives for {ttl:?}", user.name);
    users.del("42").await?;
    users.wait().await?;
    Ok(())
    // END
}

#[tokio::test]
async fn the_example_runs() {
    let server = RedisServer::start().await;
    example(&server.url()).await.unwrap();
    assert_eq!(
        (server.cli(&["EXISTS", "users:42"]), server.cli(&["EXISTS", "users:acme:42"])),
        ("0".into(), "1".into())
    );
}

/// Statement by statement, without the comments.
#[test]
fn the_readme_shows_the_code_that_runs_here() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let shown = readme.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    let here = include_str!("readme.rs");
    let here = here.split("// README\n").nth(1).unwrap().split("// END").next().unwrap();
    let lines = |code: &str| -> Vec<String> {
        let bare = code.lines().map(|line| line.split("  // ").next().unwrap_or_default().trim().to_owned());
        bare.filter(|line| !line.is_empty()).collect()
    };
    let framed = [
        "use std::time::Duration;",
        "#[tokio::main]",
        "async fn main() -> Result<(), Box<dyn std::error::Error>> {",
        "}",
    ];
    let shown: Vec<String> = lines(shown).into_iter().filter(|line| !framed.contains(&line.as_str())).collect();
    let here = here.replace("serde_derive::", "serde::").replace("builder(url)", "builder(\"redis://127.0.0.1/\")");
    let here: Vec<String> = lines(&here).into_iter().filter(|line| line != "}").collect();
    assert_eq!(shown, here);
}
