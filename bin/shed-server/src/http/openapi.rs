//! The document that describes the API: made from the handlers, served at `/api/openapi.json`.
//!
//! Each handler says in its own attribute what it takes and returns; [`error_responses`] turns the codes it may fail
//! with into the replies of its operation. `docs/openapi.json` is a copy of the result, and a test keeps it one.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use shed_api::{ErrorBody, ErrorCode};
use utoipa::{
    OpenApi,
    openapi::{self, Content, Ref, RefOr, ResponseBuilder},
};

/// What the document says before its first path.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Shed",
        description = "Makes, runs and reaches sheds: persistent development machines.\n\nThe API has no authentication: \
                       whoever reaches its port may do everything, so it belongs on a private network. Requests of web \
                       pages (with an `Origin` header) and of the server's own guests are refused.\n\nEvery reply that is no \
                       success has the body `{\"error\": {\"code\", \"message\"}}`. Every reply has an `X-Request-Id`, \
                       which the server's log names, too."
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "server", description = "The server about itself."),
        (name = "sheds", description = "Make, start, stop and delete machines."),
        (name = "streams", description = "Connections into a running shed."),
        (name = "sessions", description = "tmux sessions in sheds."),
        (name = "files", description = "Files on their way into a running shed."),
        (name = "images", description = "What sheds are made from."),
        (name = "system", description = "What all this takes on the host's disk, and how to get it back.")
    )
)]
pub(super) struct Document;

/// Failures that every operation may have: a web page asks, a guest asks, the server has a bug, or it ends.
const COMMON: [ErrorCode; 4] =
    [ErrorCode::InvalidRequest, ErrorCode::Forbidden, ErrorCode::InternalError, ErrorCode::ShuttingDown];

/// Declares a type that stands for the failures of an operation in `responses(…)`.
macro_rules! error_responses {
    ($(#[$meta:meta])* $name:ident: $($code:ident),* $(,)?) => {
        $(#[$meta])*
        pub(super) struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::response::Response>,
            > {
                $crate::http::openapi::failures(&[$(shed_api::ErrorCode::$code),*])
            }
        }
    };
}
pub(super) use error_responses;

/// Returns the replies that go with these codes and the common ones: one a status, which lists its codes.
pub(super) fn failures(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<openapi::Response>> {
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    // In the table's order, whatever order an operation lists them in.
    for code in ErrorCode::ALL.iter().filter(|code| codes.contains(code) || COMMON.contains(code)) {
        by_status.entry(code.status()).or_default().push(*code);
    }
    let body = || Content::new(Some(Ref::from_schema_name("ErrorBody")));
    by_status
        .into_iter()
        .map(|(status, codes)| {
            let lines: Vec<String> =
                codes.iter().map(|code| format!("`{code}`: {}", code.meaning())).collect();
            let response =
                ResponseBuilder::new().description(lines.join("\n\n")).content("application/json", body());
            (status.to_string(), response.build().into())
        })
        .collect()
}

/// The document as it is sent. Made once: it does not change while the server runs.
#[derive(Debug, Clone)]
pub(super) struct Rendered(Arc<str>);

impl Rendered {
    pub(super) fn new(document: &openapi::OpenApi) -> Self {
        let mut text = document.to_pretty_json().expect("the document is plain JSON");
        text.push('\n');
        Self(text.into())
    }

    /// Returns the document as text, as `docs/openapi.json` has it.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

error_responses! {
    /// Operations that fail in the common ways only.
    OnlyCommon:
}

#[utoipa::path(
    get,
    path = "/api/openapi.json",
    operation_id = "openapi",
    tag = "server",
    summary = "This document",
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = serde_json::Value), OnlyCommon)
)]
pub(super) async fn openapi(Extension(document): Extension<Rendered>) -> Response {
    ([(CONTENT_TYPE, "application/json")], document.text().to_owned()).into_response()
}
