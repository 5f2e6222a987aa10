//! The progress of a create or start, as a stream of typed events.

use std::{
    fmt,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use shed_api::{CreateEvent, ErrorBody, ErrorDetail};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ClientError, ServerAddress,
    connection::Reply,
    sse::{SseEvent, SseParser},
};

/// Events of one create or start, ending after `Complete` or `Error`, or with an `Err` when the connection does.
///
/// Dropping it earlier closes the connection, which cancels a create whose shed does not run yet.
pub struct EventStream {
    server: ServerAddress,
    request: String,
    body: Incoming,
    parser: SseParser,
    silence: Duration,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
    _connection: AbortOnDropHandle<()>,
}

impl EventStream {
    pub(crate) fn new(reply: Reply, silence: Duration) -> Self {
        let (body, connection, server, request) = reply.into_stream();
        Self {
            server,
            request,
            body,
            parser: SseParser::default(),
            silence,
            deadline: Box::pin(sleep(silence)),
            ended: false,
            _connection: connection,
        }
    }

    /// Waits for the next event; none means that the last one has been given out.
    ///
    /// # Errors
    /// When the stream breaks, falls silent or cannot be understood; nothing follows.
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<CreateEvent, ClientError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn misunderstood(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Protocol {
            server: self.server.clone(),
            request: self.request.clone(),
            reason: reason.into(),
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<CreateEvent, ClientError>> {
        loop {
            while let Some(event) = self.parser.next_event() {
                if let Some(event) = read_event(&event).map_err(|reason| self.misunderstood(reason))? {
                    return Poll::Ready(Ok(event));
                }
            }
            match pin!(self.body.frame()).poll(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.deadline.as_mut().reset(Instant::now() + self.silence);
                    if let Some(bytes) = frame.data_ref() {
                        self.parser.push(bytes).map_err(|error| self.misunderstood(error.to_string()))?;
                    }
                }
                Poll::Ready(Some(Err(source))) => {
                    return Poll::Ready(Err(ClientError::Broken {
                        server: self.server.clone(),
                        request: self.request.clone(),
                        source: source.into(),
                    }));
                }
                Poll::Ready(None) => {
                    return Poll::Ready(Err(self.misunderstood("the events ended without a result")));
                }
                Poll::Pending => {
                    std::task::ready!(self.deadline.as_mut().poll(cx));
                    return Poll::Ready(Err(ClientError::TimedOut {
                        server: self.server.clone(),
                        request: self.request.clone(),
                        waited: self.silence,
                    }));
                }
            }
        }
    }
}

impl Stream for EventStream {
    type Item = Result<CreateEvent, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.poll_event(cx));
        self.ended = !matches!(event, Ok(CreateEvent::Progress(_)));
        Poll::Ready(Some(event))
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("request", &self.request)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Reads an event; those of newer servers that are not known here are passed over.
fn read_event(event: &SseEvent) -> Result<Option<CreateEvent>, String> {
    let bad = |error: serde_json::Error| format!("a {:?} event cannot be read: {error}", event.name);
    Ok(match event.name.as_str() {
        "progress" => Some(CreateEvent::Progress(serde_json::from_str(&event.data).map_err(bad)?)),
        "complete" => Some(CreateEvent::Complete(serde_json::from_str(&event.data).map_err(bad)?)),
        "error" => {
            // Old servers send the whole error body, new ones what is in it (spec A.4).
            let flat = serde_json::from_str::<ErrorDetail>(&event.data);
            let detail =
                flat.or_else(|_| serde_json::from_str::<ErrorBody>(&event.data).map(|body| body.error));
            Some(CreateEvent::Error(detail.map_err(bad)?))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, data: &str) -> Result<Option<CreateEvent>, String> {
        read_event(&SseEvent { name: name.to_owned(), data: data.to_owned() })
    }

    #[test]
    fn an_error_event_is_read_flat_and_wrapped() {
        let expected = ErrorDetail { code: "X".into(), message: "y".into() };
        for data in [r#"{"code":"X","message":"y"}"#, r#"{"error":{"code":"X","message":"y"}}"#] {
            assert_eq!(read("error", data).unwrap(), Some(CreateEvent::Error(expected.clone())));
        }
    }

    #[test]
    fn unknown_events_are_passed_over_and_unreadable_ones_are_not() {
        assert_eq!(read("later", "whatever").unwrap(), None);
        assert!(read("complete", "{}").is_err());
        assert!(read("error", "[]").is_err());
    }
}
