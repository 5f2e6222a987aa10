//! The calls of one who listens to a namespace of the plugin bus, and answers.

use std::fmt;

use hyper::Method;
use shed_api::{PluginMessage, PluginResponse};
use shed_types::Namespace;

use crate::{
    Client, ClientError, Events,
    client::EVENT_STREAM,
    connection::{Call, Content, Reply},
    events::StreamedEvent,
    sse::SseEvent,
};

/// What guests say to a namespace, until the connection ends: always with an `Err`.
///
/// Dropping it gives the namespace back.
pub type PluginMessages = Events<BusEvent>;

/// What came for a listener.
pub enum BusEvent {
    /// A message of a guest.
    Message(Box<PluginMessage>),
    /// One that cannot be read, and why. Those that follow it can.
    Unreadable(String),
}

impl fmt::Debug for BusEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => message.fmt(f),
            Self::Unreadable(_) => f.write_str("Unreadable"),
        }
    }
}

impl StreamedEvent for BusEvent {
    fn read(event: &SseEvent) -> Result<Option<Self>, serde_json::Error> {
        if event.name != "message" {
            return Ok(None);
        }
        // What a guest has sent must not end the stream for the other guests.
        Ok(Some(match serde_json::from_str(&event.data) {
            Ok(message) => Self::Message(Box::new(message)),
            Err(error) => Self::Unreadable(error.to_string()),
        }))
    }

    fn is_last(&self) -> bool {
        false
    }
}

impl Client {
    /// Becomes the listener of a namespace and returns what guests say to it.
    ///
    /// # Errors
    /// Status 409 when somebody else listens, `PLUGINS_DISABLED`, and see [`ClientError`].
    pub async fn listen(&self, namespace: &Namespace) -> Result<PluginMessages, ClientError> {
        let path = format!("{}/messages", listener_path(namespace));
        self.stream(Call { accept: EVENT_STREAM, ..Call::new(Method::GET, path) }).await
    }

    /// Answers a message of a guest.
    ///
    /// # Errors
    /// When the shed is gone or waits for no such answer any more, and see [`ClientError`].
    pub async fn respond(&self, namespace: &Namespace, response: &PluginResponse) -> Result<(), ClientError> {
        let body = serde_json::to_vec(response).expect("a response is plain JSON");
        let path = format!("{}/respond", listener_path(namespace));
        let call = Call { content: Content::Json(body), ..Call::new(Method::POST, path) };
        self.bounded(call, self.timeouts().reply, done).await
    }
}

async fn done(reply: Reply) -> Result<(), ClientError> {
    reply.success().await.map(drop)
}

/// A namespace may have every printable character, `/` and `?` among them.
fn listener_path(namespace: &Namespace) -> String {
    let name: String = form_urlencoded::byte_serialize(namespace.as_str().as_bytes()).collect();
    format!("/api/plugins/listeners/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_cannot_be_read_does_not_end_the_stream() {
        let event = |name: &str, data: &str| SseEvent { name: name.to_owned(), data: data.to_owned() };
        let golden = include_str!("../../shed-api/fixtures/plugin-message.json");
        let read = BusEvent::read(&event("message", golden)).unwrap().unwrap();
        assert!(matches!(&read, BusEvent::Message(_)) && !read.is_last());
        for bad in ["", "{}", "[]", r#"{"type":"response"}"#] {
            let read = BusEvent::read(&event("message", bad)).unwrap().unwrap();
            assert!(matches!(read, BusEvent::Unreadable(_)), "{bad}");
        }
        assert!(BusEvent::read(&event("later", "x")).unwrap().is_none());
    }

    #[test]
    fn every_name_stays_one_part_of_the_path() {
        let path = listener_path(&"a/../b?c#%".parse().unwrap());
        assert_eq!(path, "/api/plugins/listeners/a%2F..%2Fb%3Fc%23%25");
    }
}
