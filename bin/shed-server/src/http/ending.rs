//! What is still in progress when the server can wait no longer is told so, and dropped: a create is undone by that, a
//! start goes on with the next server.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use shed_api::ErrorCode;
use tokio_util::sync::CancellationToken;

use super::{ApiError, App};

/// Answers every request that is in progress when the server gives up waiting.
pub(super) async fn answer_at_the_end(State(app): State<App>, request: Request, next: Next) -> Response {
    let work = async { Ok(next.run(request).await) };
    unless_ending(app.give_up, work).await.unwrap_or_else(IntoResponse::into_response)
}

/// Does the work behind a reply that has begun already, unless the server gives up waiting for it.
pub(super) async fn unless_ending<T>(
    give_up: CancellationToken,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    tokio::select! {
        // A result that is there is never thrown away.
        biased;
        result = work => result,
        () = give_up.cancelled() => {
            let message = "the server is shutting down and did not wait for this to end; ask again when it is back";
            Err(ApiError::new(ErrorCode::ShuttingDown, message))
        }
    }
}
