//! The durations of requests, as a metric.

use std::time::Instant;

use axum::{extract::Request, http::Method, middleware::Next, response::Response};
use metrics::histogram;

pub(crate) const DURATIONS: &str = "http_request_duration_seconds";

/// Measures a request, by its method and status.
pub(crate) async fn measure(request: Request, next: Next) -> Response {
    // No text of the client becomes a label.
    let method = match *request.method() {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    histogram!(DURATIONS, "method" => method, "status" => status).record(started.elapsed());
    response
}
