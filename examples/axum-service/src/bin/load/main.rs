//! Load for demonstration: reads and writes of users, some of which are asked for far more often
//! than others.

mod client;
mod options;
mod zipf;

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    client::{Client, Response},
    options::Options,
    zipf::Zipf,
};

/// The number of responses by the method of the request and the status; 0 for requests without one.
type Counts = BTreeMap<(&'static str, u16), u64>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        print!("{}", options::USAGE);
        return Ok(());
    };
    // Without a service there is nothing to load.
    Client::connect(options.address)
        .await
        .map_err(|error| format!("cannot connect to {}: {error}", options.address))?;
    let zipf = Arc::new(Zipf::new(options.users));
    let end = Instant::now() + options.duration;
    // Each worker has its share of the rate.
    let pause = Duration::from_secs(1).mul_f64(f64::from(options.workers) / f64::from(options.rate));
    let workers = (0..options.workers).map(|_| tokio::spawn(work(options.address, Arc::clone(&zipf), pause, end)));
    let mut counts = Counts::new();
    for worker in workers.collect::<Vec<_>>() {
        for (response, count) in worker.await? {
            *counts.entry(response).or_default() += count;
        }
    }
    println!("responses by method and status (0: none):");
    for ((method, status), count) in counts {
        println!("{method} {status}: {count}");
    }
    Ok(())
}

/// Sends one request after the other until the end. Connects again after an error.
async fn work(address: SocketAddr, zipf: Arc<Zipf>, pause: Duration, end: Instant) -> Counts {
    let mut counts = Counts::new();
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = None;
    while Instant::now() < end {
        ticks.tick().await;
        // An error is counted, and is over with its connection.
        let _ = attempt(&mut client, address, zipf.draw(), &mut counts).await;
    }
    counts
}

/// Sends a request over the connection, or over a new one if there is none.
async fn attempt(client: &mut Option<Client>, address: SocketAddr, id: u32, counts: &mut Counts) -> client::Result<()> {
    let mut connected = match client.take() {
        Some(connected) => connected,
        None => Client::connect(address).await.inspect_err(|_| *counts.entry(("connect", 0)).or_default() += 1)?,
    };
    request(&mut connected, id, counts).await?;
    *client = Some(connected);
    Ok(())
}

/// Sends a request. Of a hundred, 96 read, 3 write and 1 deletes. A user who is missing is created.
async fn request(client: &mut Client, id: u32, counts: &mut Counts) -> client::Result<()> {
    let path = format!("/users/{id}");
    let user = || Some(json!({ "name": format!("user {id}"), "email": format!("user{id}@example.com") }));
    let (method, body) = match fastrand::u8(0..100) {
        0 => ("DELETE", None),
        1..4 => ("PUT", user()),
        _ => ("GET", None),
    };
    let response = count(method, client.send(method, &path, body).await, counts)?;
    if method == "GET" && response.status == 404 {
        count("PUT", client.send("PUT", &path, user()).await, counts)?;
    }
    Ok(())
}

/// Counts the response to a request, or its lack.
fn count(method: &'static str, response: client::Result<Response>, counts: &mut Counts) -> client::Result<Response> {
    let status = response.as_ref().map_or(0, |response| response.status);
    *counts.entry((method, status)).or_default() += 1;
    response
}
