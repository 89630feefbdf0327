//! The routes.

use std::{future::ready, sync::Arc};

use axum::{
    Json, Router,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::StatusCode,
    middleware,
    response::IntoResponse,
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use tokio::sync::watch;

use crate::{
    dashboard,
    problem::Problem,
    requests,
    service::Service,
    users::{Put, User},
};

/// Routes the requests. `samples` are the events of the page.
pub(crate) fn router(service: Service, samples: watch::Receiver<Arc<str>>, metrics: PrometheusHandle) -> Router {
    let users = Router::new()
        .route("/users/{id}", get(find).put(put).delete(delete))
        .route_layer(middleware::from_fn(requests::measure))
        .with_state(service);
    Router::new()
        .merge(users)
        .merge(dashboard::router(samples))
        .route("/metrics", get(move || ready(metrics.render())))
        .fallback(|| ready(Problem::no_such_page()))
}

/// The body of a PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    name: String,
    email: String,
}

impl Profile {
    fn check(&self) -> Result<(), Problem> {
        if self.name.trim().is_empty() || self.name.len() > 200 {
            return Err(Problem::bad_request("`name` must have 1 to 200 bytes"));
        }
        if !self.email.contains('@') || self.email.len() > 320 {
            return Err(Problem::bad_request("`email` must have an @, and 320 bytes at most"));
        }
        Ok(())
    }
}

type Id = Result<Path<i64>, PathRejection>;

async fn find(State(service): State<Service>, id: Id) -> Result<Json<User>, Problem> {
    let Path(id) = id?;
    service.find(id).await.map(Json)
}

async fn put(
    State(service): State<Service>,
    id: Id,
    profile: Result<Json<Profile>, JsonRejection>,
) -> Result<impl IntoResponse, Problem> {
    let (Path(id), Json(profile)) = (id?, profile?);
    profile.check()?;
    let user = User { id, name: profile.name, email: profile.email };
    let status = match service.put(user.clone()).await? {
        Put::Created => StatusCode::CREATED,
        Put::Replaced => StatusCode::OK,
    };
    Ok((status, Json(user)))
}

async fn delete(State(service): State<Service>, id: Id) -> Result<StatusCode, Problem> {
    let Path(id) = id?;
    service.delete(id).await.map(|()| StatusCode::NO_CONTENT)
}
