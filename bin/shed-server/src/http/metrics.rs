//! `GET /metrics`, for Prometheus; and the counting of operations around the calls of the lifecycle.

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use shed_lifecycle::Started;

use super::{ApiError, App, openapi::OnlyCommon, wire};
use crate::metrics::{Metrics, Operation, Outcome};

/// The text format's media type (Prometheus, exposition formats).
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the server counts about itself
///
/// In Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "server",
    responses(
        (
            status = 200,
            description = "Prometheus' text format, version 0.0.4.",
            body = String,
            content_type = "text/plain"
        ),
        OnlyCommon
    )
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let sheds: Vec<_> = app.sheds.list().into_iter().map(|shed| wire::status(shed.status)).collect();
    ([(CONTENT_TYPE, TEXT_FORMAT)], app.metrics.render(&sheds, app.sheds.vmm_counts())).into_response()
}

/// Does the work of an operation and counts how it ends, also when the future is dropped.
pub(super) async fn counted<T, E: Into<ApiError>>(
    metrics: &Metrics,
    operation: Operation,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, ApiError> {
    let mut pending = Pending { metrics, operation, outcome: Outcome::Cancelled };
    let result = work.await.map_err(Into::into);
    pending.outcome = match &result {
        Ok(_) => Outcome::Ok,
        Err(error) if error.code.status() < 500 => Outcome::Refused,
        Err(_) => Outcome::Failed,
    };
    result
}

/// Like [`counted`], for an operation with phases.
pub(super) async fn counted_start<E: Into<ApiError>>(
    metrics: &Metrics,
    operation: Operation,
    work: impl Future<Output = Result<Started, E>>,
) -> Result<Started, ApiError> {
    let started = counted(metrics, operation, work).await?;
    metrics.phases(operation, &started.timeline);
    Ok(started)
}

/// An operation that may end any moment.
struct Pending<'a> {
    metrics: &'a Metrics,
    operation: Operation,
    outcome: Outcome,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.metrics.operation(self.operation, self.outcome);
    }
}
