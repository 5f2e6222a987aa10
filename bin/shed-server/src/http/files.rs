//! `PUT /api/sheds/{name}/files`: a tar archive, streamed from the client into a shed.
//!
//! Nothing of it is kept here: the client is read as fast as the guest takes it. The archive itself is looked into by the
//! agent alone.

use std::time::{Duration, Instant};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap,
        header::{CONTENT_ENCODING, CONTENT_TYPE},
        request::Parts,
    },
};
use futures::{Stream, StreamExt, stream};
use shed_api::{ErrorCode, FilesReport, TAR};
use shed_lifecycle::PutFilesError;
use shed_types::GuestPath;
use tokio::time::timeout;

use super::{
    ApiError, App,
    extract::{NamedShed, ShedNameParam},
    openapi::error_responses,
    query::{Query, invalid},
};
use crate::{metrics::StreamKind, streams::millis};

/// How long a client may take between two pieces of the archive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

error_responses! {
    /// Failures of files on their way into a shed.
    PutErrors: InvalidShedName, ShedNotFound, RequestTimeout, TargetUnusable, UnsupportedMediaType, BackendError,
        ConnectFailed, ShedNotRunning, InsufficientStorage
}

/// The query of a put.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "its field describes the query, which `Target` reads")]
pub(super) struct TargetParam {
    /// The directory in the shed that the archive is unpacked in: an absolute path, or `~` for the home directory of user
    /// `shed`, or a path below that. It is made when it is missing. No part of it may be `..`.
    #[param(example = "~/.config", pattern = "^(~|~?(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){1,20})$")]
    path: String,
}

/// A tar archive: ustar, GNU or pax, not compressed.
#[derive(Debug, utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it describes the body, which is streamed")]
pub(super) struct Archive(Vec<u8>);

/// A checked [`TargetParam`].
#[derive(Debug)]
pub(super) struct Target(GuestPath);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let query = Query::of(parts)?;
        let Some(path) = query.one("path")? else {
            let message = "the query names no `path` in the shed to unpack the archive in";
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        };
        let shown: String = path.chars().take(200).collect();
        path.parse().map(Self).map_err(|error| invalid("path", &shown, &format!("{error}")))
    }
}

/// Put files into a shed
///
/// Unpacks a tar archive (ustar, GNU or pax, not compressed) in a directory of a running shed. Files, directories and
/// symbolic links are taken, with their permission bits and times; other entries are left out with a warning. A name that
/// is absolute, has `..` in it, or leads out of the directory through a symbolic link ends the transfer. What is written
/// belongs to user `shed` and is never seen half-written; what was written before a failure stays.
#[utoipa::path(
    put,
    path = "/api/sheds/{name}/files",
    operation_id = "put_files",
    tag = "files",
    params(ShedNameParam, TargetParam),
    request_body(content = Archive, content_type = "application/x-tar", description = "The archive."),
    responses((status = 200, description = "What was written.", body = FilesReport), PutErrors)
)]
pub(super) async fn put(
    State(app): State<App>,
    NamedShed(name): NamedShed,
    Target(target): Target,
    request: Request,
) -> Result<Json<FilesReport>, ApiError> {
    is_tar(request.headers())?;
    app.sheds.check_running(&name)?;
    let _open = app.metrics.stream(StreamKind::Files);
    let begun = Instant::now();
    let put = app.sheds.put_files(&name, &target, archive(request.into_body())).await?;
    let (kind, ms) = (StreamKind::Files.as_str(), millis(begun.elapsed()));
    tracing::info!(kind, shed = %name, files = put.files, to_guest = put.bytes, %ms, "stream ended");
    Ok(Json(FilesReport {
        files: put.files,
        directories: put.directories,
        links: put.links,
        bytes: put.bytes,
        warnings: put.warnings,
    }))
}

/// Refuses a body that says it is something else, or packed in something else.
fn is_tar(headers: &HeaderMap) -> Result<(), ApiError> {
    let refused = |reason: String| {
        let message =
            format!("{reason}; send a tar archive that is not compressed with `Content-Type: {TAR}`");
        Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
    };
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (None, _) => {}
        (Some(value), None) => {
            let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            let value = value.split(';').next().unwrap_or_default().trim();
            if !matches!(value, TAR | "application/tar" | "application/octet-stream") {
                let shown: String = value.chars().take(100).collect();
                return refused(format!("{shown:?} is no tar archive"));
            }
        }
        (Some(_), Some(_)) => return refused("the Content-Type is given more than once".to_owned()),
    }
    let plain = |value: &[u8]| value.eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().any(|value| !plain(value.as_bytes())) {
        return refused("the body has a Content-Encoding".to_owned());
    }
    Ok(())
}

/// Why there is no more of an archive.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("nothing of it came for {} s", BODY_TIMEOUT.as_secs())]
    TooSlow,
    #[error("the connection ended")]
    Broken(#[source] axum::Error),
}

/// Returns the body piece by piece; a client that stops sending is not waited for for ever.
fn archive(body: Body) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    stream::unfold(Some(body.into_data_stream()), async |body| {
        let mut body = body?;
        match timeout(BODY_TIMEOUT, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(error))) => Some((Err(BodyError::Broken(error)), None)),
            Err(_) => Some((Err(BodyError::TooSlow), None)),
        }
    })
}

impl From<PutFilesError> for ApiError {
    fn from(error: PutFilesError) -> Self {
        let code = match &error {
            PutFilesError::Body(source) => match source.downcast_ref() {
                Some(BodyError::TooSlow) => ErrorCode::RequestTimeout,
                Some(BodyError::Broken(_)) | None => ErrorCode::InvalidRequest,
            },
            PutFilesError::BadArchive { .. } => ErrorCode::InvalidRequest,
            PutFilesError::BadPath { .. } => ErrorCode::TargetUnusable,
            PutFilesError::NoSpace { .. } => ErrorCode::InsufficientStorage,
            PutFilesError::Failed { .. } => ErrorCode::BackendError,
            PutFilesError::Reach(_)
            | PutFilesError::Stalled { .. }
            | PutFilesError::HungUp { .. }
            | PutFilesError::Broken { .. }
            | PutFilesError::Unreadable { .. } => {
                return match error {
                    PutFilesError::Reach(reach) => reach.into(),
                    other => Self::from_chain(ErrorCode::ConnectFailed, &other),
                };
            }
        };
        Self::from_chain(code, &error)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(values: &[(HeaderName, &'static str)]) -> HeaderMap {
        values.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn an_archive_is_taken_by_any_of_its_names_and_only_as_it_is() {
        for text in [TAR, "Application/X-Tar; x=y", "application/octet-stream", "application/tar"] {
            assert_eq!(is_tar(&headers(&[(CONTENT_TYPE, text)])), Ok(()), "{text}");
        }
        assert_eq!(is_tar(&headers(&[])), Ok(()));
        assert_eq!(is_tar(&headers(&[(CONTENT_ENCODING, "identity")])), Ok(()));
        for refused in [
            &[(CONTENT_TYPE, "application/json")][..],
            &[(CONTENT_TYPE, "application/gzip")],
            &[(CONTENT_TYPE, "")],
            &[(CONTENT_TYPE, TAR), (CONTENT_TYPE, TAR)],
            &[(CONTENT_TYPE, TAR), (CONTENT_ENCODING, "gzip")],
        ] {
            let error = is_tar(&headers(refused)).unwrap_err();
            assert_eq!(error.code, ErrorCode::UnsupportedMediaType, "{refused:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_sending_is_waited_for_a_minute() {
        let begun = tokio::time::Instant::now();
        let sent = stream::iter([Ok::<_, std::io::Error>("x")]).chain(stream::pending());
        let pieces: Vec<_> = archive(Body::from_stream(sent)).collect().await;
        assert!(matches!(pieces[..], [Ok(_), Err(BodyError::TooSlow)]), "{pieces:?}");
        assert_eq!(begun.elapsed(), BODY_TIMEOUT);
    }
}
