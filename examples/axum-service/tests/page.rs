//! The live page in a browser.

mod browser;
mod support;

use std::path::Path;

use integration_tests::RedisServer;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::{
    browser::Browser,
    support::{Instance, sqlite},
};

/// Requests for a service, until they are dropped.
fn load(instance: &Instance) -> Child {
    let mut load = Command::new(env!("CARGO_BIN_EXE_load"));
    load.args(["--address", &instance.address.to_string(), "--seconds", "300", "--users", "500"]);
    load.kill_on_drop(true).spawn().expect("a load")
}

/// The number of events that the page has shown.
const EVENTS: &str = "Number(document.body.dataset.events ?? 0)";

#[tokio::test]
async fn the_page_shows_the_cache() {
    let (directory, redis) = (tempfile::tempdir().unwrap(), RedisServer::start().await);
    let instance = Instance::start(&[("DATABASE_URL", &sqlite(&directory)), ("REDIS_URL", &redis.url())]).await;
    let load = load(&instance);
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{}/cache", instance.address)).await;

    // Two events, of which one had requests, hits in both tiers and a proof of coherence.
    browser.wait_for(&format!("{EVENTS} >= 2")).await;
    let hits = |tier: &str| format!("/Tier {tier}: hits[^]*?\\n[1-9][0-9.]* %/.test(document.body.innerText)");
    browser.wait_for(&hits("memory")).await;
    browser.wait_for(&hits("redis")).await;
    let text = browser.evaluate("document.body.innerText").await;
    let text = text.as_str().unwrap();
    for shown in [
        "The cache of the users\nlive\n",
        "Requests\n",
        "\ntrusted\n",
        "\nannounced by\ntracking\n",
        "\nbreaker closed\n",
        "\npending deletes\n0\n",
        "\nrequest GET\t",
        "\nredis get\t",
        "\nload from the database\t",
    ] {
        assert!(text.contains(shown), "{shown:?} is not in:\n{text}");
    }
    assert!(!text.contains("NaN") && !text.contains("undefined") && !text.contains("null"), "{text}");
    // A curve with a point for each event.
    let points = "document.querySelector('path').getAttribute('d').split(/[ML]/).length - 1";
    assert_eq!(browser.evaluate(&format!("{points} === {EVENTS}")).await, json!(true));

    // It needs nothing from elsewhere, not even an icon.
    let origin = format!("http://{}", instance.address);
    assert_eq!(browser.requests(), [format!("{origin}/cache"), format!("{origin}/cache/events")]);
    let icon = "new URL(document.querySelector('link[rel=icon]').href).protocol";
    assert_eq!(browser.evaluate(icon).await, json!("data:"));

    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cache-{scheme}.png"));
        browser.picture(&file).await;
        println!("{}", file.display());
    }
    assert_eq!(browser.complaints().await, [""; 0]);
    drop(load);
    assert!(browser.close().await.success());
}

#[tokio::test]
async fn the_page_tells_that_the_stream_is_lost_and_connects_again() {
    let directory = tempfile::tempdir().unwrap();
    let database = sqlite(&directory);
    let mut instance = Instance::start(&[("DATABASE_URL", &database)]).await;
    let address = instance.address.to_string();
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{address}/cache")).await;
    browser.wait_for(&format!("{EVENTS} >= 1")).await;
    let text = browser.evaluate("document.body.innerText").await;
    assert!(text.as_str().unwrap().contains("memory alone"), "{text}");
    assert_eq!(browser.complaints().await, [""; 0]);

    let is_lost = "document.getElementById('stream').textContent.startsWith('stream lost')";
    instance.terminate();
    browser.wait_for(is_lost).await;
    assert_eq!(browser.evaluate("document.body.className").await, json!("lost"));
    assert_eq!(instance.ended().await.code(), Some(0));

    let shown = browser.evaluate(EVENTS).await;
    let _instance = Instance::start(&[("DATABASE_URL", &database), ("LISTEN", &address)]).await;
    browser.wait_for(&format!("{EVENTS} > {shown}")).await;
    assert_eq!(browser.evaluate(&format!("{is_lost} || document.body.className")).await, json!(""));
    assert!(browser.close().await.success());
}

/// The check of the console can fail.
#[tokio::test]
async fn the_browser_reports_what_goes_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let instance = Instance::start(&[("DATABASE_URL", &sqlite(&directory))]).await;
    let page = format!("http://{}/cache", instance.address);
    let mut browser = Browser::start().await;
    browser.open(&page).await;
    assert_eq!(browser.complaints().await, [""; 0]);

    browser.evaluate("console.log('fine'), console.warn('a warning', 1), console.error('an error')").await;
    browser.evaluate("setTimeout(() => { throw new Error('thrown') }), null").await;
    browser.evaluate("fetch('/missing.ico').then(() => null)").await;
    let complaints = browser.complaints_of(4).await;
    assert_eq!(complaints.len(), 4, "{complaints:#?}");
    for (complaint, expected) in complaints.iter().zip([
        "console warning: \"a warning\" 1",
        "console error: \"an error\"",
        "exception: Error: thrown",
        "log error: Failed to load resource: the server responded with a status of 404 (Not Found)",
    ]) {
        assert!(complaint.starts_with(expected), "{expected}: {complaints:#?}");
    }
    assert!(browser.close().await.success());
}
