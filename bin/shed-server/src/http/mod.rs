//! The HTTP API: requests become calls of `shed-lifecycle`, results and errors become replies (spec A).
//!
//! [`router`] is the door; `serve` gives it connections. One file a group of paths; [`error`] has the one table
//! from typed errors to codes, [`wire`] the one from a shed's view to its JSON. Nothing here decides what happens
//! to a shed, and nothing knows a backend.

mod body;
mod connect;
mod create;
mod ending;
mod error;
mod event_stream;
mod exec;
mod extract;
mod files;
mod guard;
mod images;
mod info;
mod logs;
mod metrics;
mod observe;
mod openapi;
mod plugins;
mod query;
mod sessions;
mod sheds;
mod sse;
mod status;
mod status_wire;
mod system;
mod upgrade;
mod wire;

use std::sync::Arc;

use axum::{
    Extension, Router, extract::Request, http::header::CONNECTION, middleware, response::IntoResponse,
    routing::get,
};
use shed_api::{ErrorCode, ServerInfo, SshHostKey};
use shed_lifecycle::Sheds;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::metrics::Metrics;
pub use error::ApiError;
use openapi::Rendered;

/// What every handler works with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// The sheds.
    pub sheds: Sheds,
    /// The server about itself.
    pub info: Arc<ServerInfo>,
    /// The public key of its SSH server.
    pub host_key: Arc<SshHostKey>,
    /// What it counts about itself.
    pub metrics: Metrics,
    /// Streams that have left HTTP behind, and work that outlives its request; awaited at the end.
    pub tasks: TaskTracker,
    /// One permit for each stream that may be carried.
    pub streams: Arc<Semaphore>,
    /// Cancelled when upgraded streams shall end.
    pub hang_up: CancellationToken,
    /// Cancelled when the server begins to end: replies without an end of their own end then.
    pub closing: CancellationToken,
    /// Cancelled when requests in progress have had their time; they are answered then.
    pub give_up: CancellationToken,
}

/// Returns the API of these sheds.
pub fn router(app: App) -> Router {
    let observe = middleware::from_fn_with_state(app.metrics.clone(), observe::observe);
    let (router, document) = operations().split_for_parts();
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(Extension(Rendered::new(&document)))
        .layer(middleware::from_fn_with_state(app.clone(), ending::answer_at_the_end))
        .layer(middleware::from_fn(guard::guard))
        .layer(observe)
        .with_state(app)
}

/// Returns the OpenAPI document of the API, as `docs/openapi.json` has it.
#[must_use]
pub fn document() -> String {
    Rendered::new(operations().get_openapi()).text().to_owned()
}

/// Every operation: its route and, in one with it, its description. A path's methods stand in one line.
fn operations() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(info::info))
        .routes(routes!(info::ssh_host_key))
        .routes(routes!(openapi::openapi))
        .routes(routes!(metrics::metrics))
        .routes(routes!(sheds::list, create::create))
        .routes(routes!(sheds::get, sheds::delete))
        .routes(routes!(sheds::start))
        .routes(routes!(sheds::stop))
        .routes(routes!(status::status))
        .routes(routes!(status::events))
        .routes(routes!(logs::logs))
        .route("/api/sheds/{name}/exec", get(exec::exec))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::kill))
        .routes(routes!(sessions::list_all))
        .routes(routes!(files::put))
        .routes(routes!(images::list))
        .routes(routes!(images::delete))
        .routes(routes!(images::prune, images::delete_prune))
        .routes(routes!(connect::connect))
        .routes(routes!(plugins::listeners))
        .routes(routes!(plugins::sheds))
        .routes(routes!(plugins::listen))
        .routes(routes!(plugins::respond))
        .routes(routes!(system::df))
        .routes(routes!(system::prune))
}

/// Returns what guests get of the API: one refusal a connection, whatever they ask for. It is logged only when `loud`,
/// so that no guest can fill the log.
pub fn router_for_guests(metrics: Metrics, loud: bool) -> Router {
    let router = Router::new().fallback(refuse_guest);
    if loud { router.layer(middleware::from_fn_with_state(metrics, observe::observe)) } else { router }
}

async fn refuse_guest() -> impl IntoResponse {
    let message = "this request comes from a shed of this server; sheds may not use its API";
    ([(CONNECTION, "close")], ApiError::new(ErrorCode::Forbidden, message))
}

async fn no_such_path(request: Request) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is nothing at {}", request.uri().path()))
}

async fn no_such_method(request: Request) -> ApiError {
    let message =
        format!("{} does not take {}; see the Allow header", request.uri().path(), request.method());
    ApiError::new(ErrorCode::MethodNotAllowed, message)
}
