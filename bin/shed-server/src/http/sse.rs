//! The progress of a create or start as server-sent events (spec A.4).
//!
//! The work runs in a task of its own, so a client that reads slowly delays nothing and misses nothing: updates wait
//! in a queue that a whole create fills with about a dozen. The task ends with the reply's body: hyper drops that when
//! the client goes away, which drops the work's future. What dropping means is up to the work; a create is undone.

use std::{convert::Infallible, pin::Pin, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, stream};
use shed_api::{CreateEvent, ErrorCode, ProgressEvent};
use shed_lifecycle::{ProgressUpdate, Started};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinError};
use tokio_util::task::AbortOnDropHandle;

use super::{ApiError, wire};

/// Time between comments that keep an idle stream alive (spec M: idle streams need keep-alives).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The work and what it has yet to say.
struct Events {
    updates: UnboundedReceiver<ProgressUpdate>,
    warnings: Vec<String>,
    /// Gone once its result has been sent.
    work: Option<AbortOnDropHandle<Result<Started, ApiError>>>,
    /// Known, and sent when the updates before it are.
    result: Option<CreateEvent>,
}

/// Runs the work and returns the reply that tells of it.
///
/// `warnings` are told as progress and again in the final object.
pub(super) fn respond<W>(
    work: W,
    updates: UnboundedReceiver<ProgressUpdate>,
    warnings: Vec<String>,
) -> Response
where
    W: Future<Output = Result<Started, ApiError>> + Send + 'static,
{
    let span = tracing::Span::current();
    let work = AbortOnDropHandle::new(tokio::spawn(tracing::Instrument::instrument(work, span)));
    let events = Events { updates, warnings, work: Some(work), result: None };
    Sse::new(events.into_stream()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

impl Events {
    fn into_stream(self) -> Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>> {
        let warnings = self.warnings.clone().into_iter().map(|message| {
            CreateEvent::Progress(ProgressEvent { message, phase: None, elapsed_ms: None, warning: true })
        });
        let rest =
            stream::unfold(
                self,
                |mut events| async move { events.next().await.map(|event| (event, events)) },
            );
        let all = futures::StreamExt::chain(stream::iter(warnings.collect::<Vec<_>>()), rest);
        Box::pin(futures::StreamExt::map(all, |event| {
            Ok(Event::default().event(event.name()).data(event.data()))
        }))
    }

    async fn next(&mut self) -> Option<CreateEvent> {
        loop {
            if self.result.is_some() {
                // The work has ended, so every update it made is in the queue already.
                return match self.updates.try_recv() {
                    Ok(update) => Some(CreateEvent::Progress(wire::progress(update))),
                    Err(_) => self.result.take(),
                };
            }
            let work = self.work.as_mut()?;
            tokio::select! {
                biased;
                Some(update) = self.updates.recv() => return Some(CreateEvent::Progress(wire::progress(update))),
                result = work => {
                    self.work = None;
                    self.result = Some(self.last(result));
                }
            }
        }
    }

    fn last(&self, result: Result<Result<Started, ApiError>, JoinError>) -> CreateEvent {
        match result {
            Ok(Ok(started)) => CreateEvent::Complete(Box::new(wire::started(started, &self.warnings))),
            Ok(Err(error)) => {
                tracing::info!(code = %error.code, message = %error.message, "request failed behind an event stream");
                CreateEvent::Error(error.into_detail())
            }
            Err(error) => {
                tracing::error!(%error, "the work behind an event stream ended without a result");
                let message = "the server failed while it worked on this; see its log";
                CreateEvent::Error(ApiError::new(ErrorCode::InternalError, message).into_detail())
            }
        }
    }
}
