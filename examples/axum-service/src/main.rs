//! A service of users whose reads go through memory and Redis to a database.
//!
//! The README next to this crate shows how to run it, and what it does when Redis is down.

mod cache;
mod dashboard;
mod problem;
mod requests;
mod routes;
mod service;
mod settings;
mod shutdown;
mod telemetry;
mod users;

use std::{error::Error, process::ExitCode, time::Duration};

use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{service::Service, settings::Settings, users::Users};

/// How long requests may take to finish after the service was told to end.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    telemetry::log();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let settings = Settings::from_environment()?;
    // Before the chain is built, which tells the recorder its metrics.
    let metrics = telemetry::record_metrics()?;
    let users = Users::open(&settings.database).await?;
    let cache =
        cache::build(settings.redis.as_deref()).await.map_err(|error| format!("cannot use REDIS_URL: {error:#}"))?;
    let service = Service::new(users, cache.clone());

    // Before it listens: a signal that comes early must not be missed.
    let signal = shutdown::signal()?;
    let ending = CancellationToken::new();
    let samples = dashboard::sample(cache, metrics.clone(), ending.clone());
    let router = routes::router(service.clone(), samples, metrics);

    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("cannot listen at {} (LISTEN): {error}", settings.listen))?;
    tracing::info!("listening at http://{}", listener.local_addr()?);
    let server = axum::serve(listener, router).with_graceful_shutdown(ending.clone().cancelled_owned());
    let told = async {
        signal.await;
        tracing::info!("ending: no new connections, {DRAIN:?} for requests to finish");
        ending.cancel();
        sleep(DRAIN).await;
    };
    tokio::select! {
        result = server => result?,
        () = told => tracing::warn!("requests were still running after {DRAIN:?}"),
    }
    service.close().await;
    tracing::info!("ended");
    Ok(())
}
