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

use crate::{client::Client, options::Options, zipf::Zipf};

/// The responses by their status; 0 for requests without one.
type Statuses = BTreeMap<u16, u64>;

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
    let mut statuses = Statuses::new();
    for worker in workers.collect::<Vec<_>>() {
        for (status, count) in worker.await? {
            *statuses.entry(status).or_default() += count;
        }
    }
    println!("responses by status (0: none): {statuses:?}");
    Ok(())
}

/// Sends one request after the other until the end. Connects again after an error.
async fn work(address: SocketAddr, zipf: Arc<Zipf>, pause: Duration, end: Instant) -> Statuses {
    let mut statuses = Statuses::new();
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = None;
    while Instant::now() < end {
        ticks.tick().await;
        let status = attempt(&mut client, address, zipf.draw()).await.unwrap_or(0);
        *statuses.entry(status).or_default() += 1;
    }
    statuses
}

/// Sends a request over the connection, or over a new one if there is none.
async fn attempt(client: &mut Option<Client>, address: SocketAddr, id: u32) -> client::Result<u16> {
    let mut connected = match client.take() {
        Some(connected) => connected,
        None => Client::connect(address).await?,
    };
    let status = request(&mut connected, id).await?;
    *client = Some(connected);
    Ok(status)
}

/// Sends a request. Of a hundred, 96 read, 3 write and 1 deletes. A user who is missing is created.
async fn request(client: &mut Client, id: u32) -> client::Result<u16> {
    let path = format!("/users/{id}");
    let user = || Some(json!({ "name": format!("user {id}"), "email": format!("user{id}@example.com") }));
    let response = match fastrand::u8(0..100) {
        0 => client.send("DELETE", &path, None).await?,
        1..4 => client.send("PUT", &path, user()).await?,
        _ => match client.send("GET", &path, None).await? {
            missing if missing.status == 404 => client.send("PUT", &path, user()).await?,
            found => found,
        },
    };
    Ok(response.status)
}
