//! The call that sends files into a shed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::{Method, body::Frame};
use shed_api::{FilesReport, TAR};
use shed_types::{GuestPath, ShedName};
use tokio::time::sleep;

use crate::{
    Client, ClientError,
    connection::{Call, Content, Reply, send},
};

impl Client {
    /// Unpacks a tar archive in a directory of a running shed, which is made when it is missing.
    ///
    /// The archive is sent as it comes and as fast as the shed takes it. An error in it ends the transfer; no file is left
    /// half-written then.
    ///
    /// # Errors
    /// `SHED_NOT_FOUND`, `SHED_NOT_RUNNING`, `INVALID_REQUEST` for a bad archive, `TARGET_UNUSABLE`,
    /// `INSUFFICIENT_STORAGE`, `CONNECT_FAILED`, and see [`ClientError`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the transfer up; what was written whole stays.
    pub async fn put_files(
        &self,
        name: &ShedName,
        target: &GuestPath,
        archive: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    ) -> Result<FilesReport, ClientError> {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("path", target.as_str()).finish();
        let pieces = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&pieces);
        let frames = archive.map(move |piece| {
            counted.fetch_add(1, Relaxed);
            piece.map(Frame::data)
        });
        let body: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(frames);
        let call = Call {
            content: Content::Stream { media_type: TAR, body: StreamBody::new(body) },
            ..Call::new(Method::PUT, format!("/api/sheds/{name}/files?{query}"))
        };
        let request = call.describe();
        let work = async {
            let reply: Reply = send(self.server(), self.timeouts().connect, call).await?;
            reply.json().await
        };
        let waited = self.timeouts().stall;
        let stalls = async {
            let mut seen = None;
            // Time is up when nothing at all has been taken for that long.
            while seen.replace(pieces.load(Relaxed)) != Some(pieces.load(Relaxed)) {
                sleep(waited).await;
            }
        };
        tokio::select! {
            biased;
            result = work => result,
            () = stalls => Err(ClientError::TimedOut { server: self.server().clone(), request, waited }),
        }
    }
}
