//! Chains in this process, whose metrics can be scraped.

use std::{future::ready, net::SocketAddr};

use axum::{Router, routing::get};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;

/// Records the metrics of this process, and serves them at the returned address until the runtime
/// ends. One test of a process may call this.
pub(crate) async fn expose() -> SocketAddr {
    let metrics = PrometheusBuilder::new().install_recorder().expect("the only recorder");
    let router = Router::new().route("/metrics", get(move || ready(metrics.render())));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}
