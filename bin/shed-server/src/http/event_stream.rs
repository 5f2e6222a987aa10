//! Replies of server-sent events that go on until there is no more to tell, the client goes, or the server ends.
//!
//! Each such reply has a place among the streams of the server. What is yet to come is asked for as the client reads.

use std::{convert::Infallible, pin::Pin, time::Duration};

use axum::{
    http::HeaderName,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use shed_api::{ErrorCode, ErrorDetail};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{ApiError, App};

/// Time between comments that keep an idle stream alive (spec M: idle streams need keep-alives).
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// For proxies that would hold events back until they have many (nginx, X-Accel-Buffering).
const NOT_BUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

/// Returns a reply of these events.
pub(super) fn reply(events: Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>) -> Response {
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    ([NOT_BUFFERED], sse).into_response()
}

/// Describes each event of such a reply.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it describes what is written piece by piece")]
pub(super) struct StreamEvent {
    /// What it is.
    event: String,
    /// JSON on one line: the object that the operation names for it.
    data: String,
}

/// Something that tells events, the last of which says so.
pub(super) trait Teller: Send + 'static {
    /// Waits for the next event: its name and its data.
    fn next(&mut self) -> impl Future<Output = Told> + Send;
}

/// What a teller tells.
#[derive(Debug)]
pub(super) enum Told {
    /// More may follow.
    Event(&'static str, String),
    /// Nothing follows.
    Last(&'static str, String),
}

impl Told {
    /// Makes the last event of a stream that fails.
    pub(super) fn failed(error: ApiError) -> Self {
        tracing::info!(code = %error.code, reason = %error.message, "an event stream ends");
        Self::Last("error", data(&error.into_detail()))
    }
}

/// Takes a place for a reply that may go on for long.
pub(super) fn take_place(app: &App) -> Result<OwnedSemaphorePermit, ApiError> {
    app.streams.clone().try_acquire_owned().map_err(|_| {
        let message = "this server carries as many streams as its limit of open files allows; close some, or raise the \
                       limit (LimitNOFILE of its systemd unit, or `ulimit -n`)";
        ApiError::new(ErrorCode::ConnectFailed, message)
    })
}

/// Returns a reply of what is told, until the last event or the server's end.
pub(super) fn tell(app: &App, place: OwnedSemaphorePermit, teller: impl Teller) -> Response {
    let state = Some((teller, place, app.closing.clone()));
    let events = stream::unfold(state, |state| async move {
        let (mut teller, place, closing) = state?;
        match told_or_closing(&mut teller, &closing).await {
            Told::Event(name, data) => Some(((name, data), Some((teller, place, closing)))),
            Told::Last(name, data) => Some(((name, data), None)),
        }
    });
    reply(Box::pin(events.map(|(name, data)| Ok(Event::default().event(name).data(data)))))
}

async fn told_or_closing(teller: &mut impl Teller, closing: &CancellationToken) -> Told {
    tokio::select! {
        biased;
        () = closing.cancelled() => {
            let message = "the server is shutting down; ask again when it is back";
            Told::failed(ApiError::new(ErrorCode::ShuttingDown, message))
        }
        told = teller.next() => told,
    }
}

fn data(detail: &ErrorDetail) -> String {
    serde_json::to_string(detail).expect("wire types serialise without error")
}
