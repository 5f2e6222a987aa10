//! The progress of a create or start as server-sent events (spec A.4).
//!
//! The work runs in a task of its own, so a client that reads slowly delays nothing and misses nothing: updates wait
//! in a queue without a limit, which the work cannot fill: it tells of each phase once (`Progress::enter`), however
//! often it tries one, and of a few warnings besides. Only of an image on its way the last word alone waits, and of what
//! programs in the guest write so much and no more. The task ends with the reply's body: hyper drops that when
//! the client goes away, which drops the work's future. What dropping means is up to the work; a create is undone until
//! its shed runs.

use std::{convert::Infallible, pin::Pin};

use axum::response::{Response, sse::Event};
use futures::{Stream, stream};
use shed_api::{CreateEvent, ErrorCode};
use shed_lifecycle::{Started, Updates};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::{ApiError, event_stream, wire};

/// The work and what it has yet to say.
struct Events {
    updates: Updates,
    /// Gone once its result has been sent.
    work: Option<AbortOnDropHandle<Result<Started, ApiError>>>,
    /// Known, and sent when the updates before it are.
    result: Option<CreateEvent>,
}

/// Runs the work and returns the reply that tells of it.
pub(super) fn respond<W>(work: W, updates: Updates) -> Response
where
    W: Future<Output = Result<Started, ApiError>> + Send + 'static,
{
    let span = tracing::Span::current();
    let work = AbortOnDropHandle::new(tokio::spawn(tracing::Instrument::instrument(work, span)));
    let events = Events { updates, work: Some(work), result: None };
    event_stream::reply(events.into_stream())
}

impl Events {
    fn into_stream(self) -> Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>> {
        let all =
            stream::unfold(
                self,
                |mut events| async move { events.next().await.map(|event| (event, events)) },
            );
        Box::pin(futures::StreamExt::map(all, |event| {
            Ok(Event::default().event(event.name()).data(event.data()))
        }))
    }

    async fn next(&mut self) -> Option<CreateEvent> {
        loop {
            if self.result.is_some() {
                // The work has ended, so every update it made is in the queue already.
                return match self.updates.try_recv() {
                    Some(update) => Some(CreateEvent::Progress(wire::progress(update))),
                    None => self.result.take(),
                };
            }
            let work = self.work.as_mut()?;
            tokio::select! {
                biased;
                Some(update) = self.updates.recv() => return Some(CreateEvent::Progress(wire::progress(update))),
                result = work => {
                    self.work = None;
                    self.result = Some(last(result));
                }
            }
        }
    }
}

fn last(result: Result<Result<Started, ApiError>, JoinError>) -> CreateEvent {
    match result {
        Ok(Ok(started)) => CreateEvent::Complete(Box::new(wire::started(started))),
        Ok(Err(error)) => {
            tracing::info!(code = %error.code, reason = %error.message, "request failed behind an event stream");
            CreateEvent::Error(error.into_detail())
        }
        Err(error) => {
            tracing::error!(%error, "the work behind an event stream ended without a result");
            let message = "the server failed while it worked on this; see its log";
            CreateEvent::Error(ApiError::new(ErrorCode::InternalError, message).into_detail())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use shed_lifecycle::ProgressUpdate;
    use tokio::{sync::mpsc, time::Instant};

    use super::{event_stream::KEEP_ALIVE, *};

    fn update(message: &str, warning: bool) -> ProgressUpdate {
        ProgressUpdate {
            phase: shed_lifecycle::Phase::Boot,
            message: message.to_owned(),
            elapsed: Duration::ZERO,
            warning,
            image: None,
            output: None,
        }
    }

    fn silent_work() -> Response {
        let (keep, updates) = mpsc::unbounded_channel();
        keep.send(update("careful", true)).unwrap();
        let work = async move {
            let _kept = keep;
            std::future::pending().await
        };
        respond(work, updates.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_alive_every_15_seconds() {
        let begun = Instant::now();
        let mut body = silent_work().into_body().into_data_stream();
        let first = body.next().await.unwrap().unwrap();
        assert_eq!(&first[..], b"event: progress\ndata: {\"message\":\"careful\",\"phase\":\"boot\",\"elapsed_ms\":0,\"warning\":true}\n\n");
        for count in 1..=5 {
            // A line that begins with a colon is a comment, and an empty line ends it (HTML, section 9.2.6).
            assert_eq!(&body.next().await.unwrap().unwrap()[..], b":\n\n");
            assert_eq!(begun.elapsed(), KEEP_ALIVE * count);
        }
    }

    #[tokio::test]
    async fn proxies_are_asked_to_keep_nothing() {
        let response = silent_work();
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
    }

    #[tokio::test]
    async fn work_that_panics_ends_in_an_error_event() {
        let (_keep, updates) = mpsc::unbounded_channel();
        let response = respond(async { panic!("this panic belongs to the test") }, updates.into());
        let events: Vec<_> = response.into_body().into_data_stream().collect().await;
        let last = String::from_utf8(events.last().unwrap().as_ref().unwrap().to_vec()).unwrap();
        assert!(last.starts_with("event: error\ndata: {\"code\":\"INTERNAL_ERROR\""), "{last}");
    }

    #[tokio::test]
    async fn a_reader_that_comes_after_the_end_gets_everything_in_order() {
        let (sender, updates) = mpsc::unbounded_channel();
        let (done, ended) = tokio::sync::oneshot::channel();
        let work = async move {
            for number in 0..1000 {
                sender.send(update(&number.to_string(), false)).unwrap();
            }
            done.send(()).unwrap();
            Err(ApiError::new(ErrorCode::BackendError, "the end"))
        };
        let response = respond(work, updates.into());
        ended.await.unwrap();
        let events: Vec<_> = response.into_body().into_data_stream().map(Result::unwrap).collect().await;
        assert_eq!(events.len(), 1001);
        for (number, event) in events[..1000].iter().enumerate() {
            let text = String::from_utf8_lossy(event);
            assert!(text.contains(&format!(r#""message":"{number}""#)), "{text}");
        }
        let last = String::from_utf8_lossy(&events[1000]);
        assert_eq!(last, "event: error\ndata: {\"code\":\"BACKEND_ERROR\",\"message\":\"the end\"}\n\n");
    }
}
