//! Event streams of the server, typed: the progress of a create or start, the news of a shed, lines of a log.

use std::{
    fmt,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use shed_api::{CreateEvent, ErrorBody, ErrorDetail, LogEvent, ShedEvent};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ClientError, ServerAddress,
    connection::Reply,
    sse::{SseEvent, SseParser},
};

/// An event that the server streams.
pub trait StreamedEvent: Sized + Send + Unpin + 'static {
    /// Reads an event; those of newer servers that are not known here are nothing.
    ///
    /// # Errors
    /// When its data are not what its name says.
    fn read(event: &SseEvent) -> Result<Option<Self>, serde_json::Error>;

    /// Tells whether it is the last one.
    fn is_last(&self) -> bool;
}

/// Events of one create or start, ending after `Complete` or `Error`, or with an `Err` when the connection does.
///
/// Dropping it earlier closes the connection, which cancels a create whose shed does not run yet.
pub type EventStream = Events<CreateEvent>;

/// News of a shed, ending after `Error`, or with an `Err` when the connection does.
pub type ShedEvents = Events<ShedEvent>;

/// Lines of a shed's journal or console, ending after `End` or `Error`, or with an `Err` when the connection does.
pub type LogEvents = Events<LogEvent>;

/// Events of one request. Dropping it closes the connection.
pub struct Events<T> {
    server: ServerAddress,
    request: String,
    body: Incoming,
    parser: SseParser,
    silence: Duration,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
    kind: std::marker::PhantomData<fn() -> T>,
    _connection: AbortOnDropHandle<()>,
}

impl<T: StreamedEvent> Events<T> {
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
            kind: std::marker::PhantomData,
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
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn misunderstood(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Protocol {
            server: self.server.clone(),
            request: self.request.clone(),
            reason: reason.into(),
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, ClientError>> {
        loop {
            while let Some(event) = self.parser.next_event() {
                let read = T::read(&event).map_err(|error| {
                    self.misunderstood(format!("a {:?} event cannot be read: {error}", event.name))
                });
                if let Some(event) = read? {
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

impl<T: StreamedEvent> Stream for Events<T> {
    type Item = Result<T, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.poll_event(cx));
        self.ended = event.as_ref().map_or(true, T::is_last);
        Poll::Ready(Some(event))
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("request", &self.request)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl StreamedEvent for CreateEvent {
    fn read(event: &SseEvent) -> Result<Option<Self>, serde_json::Error> {
        Ok(match event.name.as_str() {
            "progress" => Some(Self::Progress(data(event)?)),
            "complete" => Some(Self::Complete(data(event)?)),
            "error" => {
                // Old servers send the whole error body, new ones what is in it (spec A.4).
                let flat = serde_json::from_str::<ErrorDetail>(&event.data);
                let detail =
                    flat.or_else(|_| serde_json::from_str::<ErrorBody>(&event.data).map(|body| body.error));
                Some(Self::Error(detail?))
            }
            _ => None,
        })
    }

    fn is_last(&self) -> bool {
        match self {
            Self::Progress(_) => false,
            Self::Complete(_) | Self::Error(_) => true,
        }
    }
}

impl StreamedEvent for ShedEvent {
    fn read(event: &SseEvent) -> Result<Option<Self>, serde_json::Error> {
        Ok(match event.name.as_str() {
            "status" => Some(Self::Status(data(event)?)),
            "state" => Some(Self::State(data(event)?)),
            "event" => Some(Self::Event(data(event)?)),
            "error" => Some(Self::Error(data(event)?)),
            _ => None,
        })
    }

    fn is_last(&self) -> bool {
        match self {
            Self::Status(_) | Self::State(_) | Self::Event(_) => false,
            Self::Error(_) => true,
        }
    }
}

impl StreamedEvent for LogEvent {
    fn read(event: &SseEvent) -> Result<Option<Self>, serde_json::Error> {
        Ok(match event.name.as_str() {
            "line" => Some(Self::Line(data(event)?)),
            "end" => Some(Self::End),
            "error" => Some(Self::Error(data(event)?)),
            _ => None,
        })
    }

    fn is_last(&self) -> bool {
        match self {
            Self::Line(_) => false,
            Self::End | Self::Error(_) => true,
        }
    }
}

fn data<T: DeserializeOwned>(event: &SseEvent) -> Result<T, serde_json::Error> {
    serde_json::from_str(&event.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, data: &str) -> Result<Option<CreateEvent>, serde_json::Error> {
        CreateEvent::read(&SseEvent { name: name.to_owned(), data: data.to_owned() })
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

    #[test]
    fn events_of_sheds_and_logs_are_read_back_as_they_are_written() {
        let detail = ErrorDetail { code: "SHED_NOT_FOUND".into(), message: "gone".into() };
        let report = serde_json::from_str(r#"{"name":"api","status":"stopped"}"#).unwrap();
        for event in [ShedEvent::Status(report), ShedEvent::Error(detail.clone())] {
            let wire = SseEvent { name: event.name().to_owned(), data: event.data() };
            assert_eq!(ShedEvent::read(&wire).unwrap(), Some(event));
        }
        for event in [LogEvent::Line(Box::default()), LogEvent::End, LogEvent::Error(detail)] {
            let wire = SseEvent { name: event.name().to_owned(), data: event.data() };
            assert_eq!(LogEvent::read(&wire).unwrap(), Some(event));
        }
        let later = SseEvent { name: "later".into(), data: "x".into() };
        assert_eq!((ShedEvent::read(&later).unwrap(), LogEvent::read(&later).unwrap()), (None, None));
    }
}
