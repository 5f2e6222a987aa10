//! The socket as hyper sees it, and what is noted about it on the way.
//!
//! hyper answers what it cannot read by itself, with a status and nothing else. Such a reply is held back here, so that
//! `refusal` can send one in the error shape. Everything that the API says passes unchanged.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What is known about a connection besides its bytes. Only its own task touches it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Something has come since the last request was taken, or since the accept.
    heard: AtomicBool,
    /// A request has been taken from this connection.
    served: AtomicBool,
    /// The last request has a body that was not read to its end.
    unread: AtomicBool,
}

impl Watch {
    /// Notes that a request's head is complete.
    pub(super) fn request_begins(&self) {
        self.served.store(true, Relaxed);
        self.unread.store(false, Relaxed);
    }

    /// Notes that something has come.
    pub(super) fn hears(&self) {
        self.heard.store(true, Relaxed);
    }

    /// Notes that the wait for a head begins.
    pub(super) fn wait_begins(&self) {
        self.heard.store(false, Relaxed);
    }

    /// Returns whether anything of the head that is waited for has come.
    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Relaxed)
    }

    /// Returns whether there was a request before.
    pub(super) fn has_served(&self) -> bool {
        self.served.load(Relaxed)
    }

    /// Returns whether the client may still be sending a body that nobody reads.
    pub(super) fn has_unread_body(&self) -> bool {
        self.unread.load(Relaxed)
    }
}

/// A TCP connection in hyper's hands.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    watch: Arc<Watch>,
    /// hyper has said its own last word, which was held back.
    held_back: bool,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, watch: Arc<Watch>) -> Self {
        Self { stream, watch, held_back: false }
    }

    /// Returns the connection itself.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.watch.hears();
        }
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match own_reply(bytes) {
            Some(0) => {
                self.held_back = true;
                Poll::Ready(Ok(bytes.len()))
            }
            // The reply to the request before goes first.
            Some(begin) => Pin::new(&mut self.stream).poll_write(cx, &bytes[..begin]),
            None => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held_back { Poll::Ready(Ok(())) } else { Pin::new(&mut self.stream).poll_shutdown(cx) }
    }

    /// One slice at a time, so that a reply of hyper's own stands at the end of what is written.
    fn is_write_vectored(&self) -> bool {
        false
    }
}

/// hyper's words for what it cannot read (its `Server::on_error`).
const OWN_STATUS_LINES: [&[u8]; 3] =
    [b" 400 Bad Request\r\n", b" 414 URI Too Long\r\n", b" 431 Request Header Fields Too Large\r\n"];

/// More bytes than a reply of hyper's own has: a status line, the date, and that the connection closes.
const OWN_REPLY: usize = 256;

/// Returns where a reply of hyper's own begins. Nothing follows one, and it lacks the id that each of ours has. Text in
/// a body cannot be mistaken for one: our bodies are JSON and event streams, which have no line ends of this kind.
fn own_reply(bytes: &[u8]) -> Option<usize> {
    let tail = bytes.len().saturating_sub(OWN_REPLY);
    let version = b"HTTP/1.";
    let begin = tail + bytes[tail..].windows(version.len()).rposition(|window| window == version)?;
    let rest = bytes.get(begin + version.len() + 1..)?;
    let line = OWN_STATUS_LINES.iter().find(|line| rest.starts_with(line))?;
    let head = std::str::from_utf8(&rest[line.len()..]).ok()?;
    let (fields, after) = head.split_once("\r\n\r\n")?;
    let ours = fields.lines().any(|field| field.to_ascii_lowercase().starts_with("x-request-id:"));
    (after.is_empty() && !ours).then_some(begin)
}

/// The body of a request; notes when it is given up before its end.
#[derive(Debug)]
pub(super) struct RequestBody {
    body: Incoming,
    ended: bool,
    watch: Arc<Watch>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, watch: Arc<Watch>) -> Self {
        Self { ended: body.is_end_stream(), body, watch }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None) = frame {
            self.ended = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.watch.unread.store(true, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_of_hypers_own_are_held_back() {
        let own = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\n\r\n";
        assert_eq!(own_reply(own.as_bytes()), Some(0));
        assert_eq!(own_reply(format!("{{}}{own}").as_bytes()), Some(2));
        let large =
            own.replace("400 Bad Request", "431 Request Header Fields Too Large").replace("1.1", "1.0");
        assert_eq!(own_reply(large.as_bytes()), Some(0));
        for ours in [
            own.replace("date:", "x-request-id: 1\r\ndate:"),
            own.replace("date:", "X-Request-Id: 1\r\ndate:"),
            own.replace("400 Bad Request", "404 Not Found"),
            own.replace("400 Bad Request", "400 Bad Luck"),
            format!("{own}{{}}"),
            own.trim_end().to_owned(),
            r#"{"message":"HTTP/1.1 400 Bad Request\r\n\r\n"}"#.to_owned(),
            "HTTP/1.".to_owned(),
            String::new(),
        ] {
            assert_eq!(own_reply(ours.as_bytes()), None, "{ours}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_panic(bytes: Vec<u8>, cut: usize) {
            let _any = own_reply(&bytes);
            let own = b"xHTTP/1.1 400 Bad Request\r\ndate: x\r\n\r\n";
            let _any = own_reply(&own[cut % own.len()..]);
        }
    }
}
