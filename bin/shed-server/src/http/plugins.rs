//! The plugin bus (spec A.9): who listens to what sheds say, which sheds can be heard, the messages, and the responses.
//!
//! Messages pass through here as they are; payloads are read by nobody and are in no log line. A listener is a reply of
//! server-sent events: its namespace is free again when that ends, however it does.

use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, request::Parts},
    response::Response,
};
use shed_api::{ErrorCode, PluginListener, PluginListenerList, PluginResponse, PluginShed, PluginShedList};
use shed_lifecycle::{ListenError, Listening, RespondError};
use shed_types::{Namespace, ParseNamespaceError};

use super::{
    ApiError, App, body,
    event_stream::{StreamEvent, Teller, Told, take_place, tell},
    extract::path_param,
    openapi::error_responses,
};

/// Longest body of a response in bytes: what fits into a frame to the guest, and what goes around it.
const MAX_BODY: usize = (1 << 20) + (64 << 10);

error_responses! {
    /// Failures of a look at the bus.
    LookErrors: PluginsDisabled
}

error_responses! {
    /// Failures of listening.
    ListenErrors: InvalidNamespace, NamespaceReserved, NamespaceAlreadyRegistered, ConnectFailed, PluginsDisabled
}

error_responses! {
    /// Failures of a response.
    RespondErrors: InvalidNamespace, NamespaceReserved, InvalidBody, MissingShed, ShedNotConnected,
        RequestNotPending, BodyTooLarge, RequestTimeout, ShedBusy, PluginsDisabled
}

/// Describes `{namespace}` in the path of a listener.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it describes what NamedNamespace reads")]
pub(super) struct NamespaceParam {
    /// Printable ASCII without a space; `system:` ones are Shed's own.
    #[param(pattern = "^[!-~]{1,128}$", max_length = 128)]
    namespace: String,
}

/// The namespace that a path names.
#[derive(Debug)]
pub(super) struct NamedNamespace(Namespace);

impl<S: Send + Sync> FromRequestParts<S> for NamedNamespace {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = path_param(parts, state, "namespace", ErrorCode::InvalidNamespace).await?;
        parse_namespace(&text).map(Self)
    }
}

fn parse_namespace(text: &str) -> Result<Namespace, ApiError> {
    text.parse().map_err(|error: ParseNamespaceError| {
        let code = match &error {
            ParseNamespaceError::Reserved { .. } => ErrorCode::NamespaceReserved,
            ParseNamespaceError::Empty
            | ParseNamespaceError::TooLong { .. }
            | ParseNamespaceError::Malformed { .. } => ErrorCode::InvalidNamespace,
        };
        ApiError::from_chain(code, &error)
    })
}

/// List who listens to sheds
///
/// Each namespace has at most one listener.
#[utoipa::path(
    get,
    path = "/api/plugins/listeners",
    operation_id = "list_plugin_listeners",
    tag = "plugins",
    responses((status = 200, description = "The listeners, sorted by namespace.", body = PluginListenerList), LookErrors)
)]
pub(super) async fn listeners(State(app): State<App>) -> Result<Json<PluginListenerList>, ApiError> {
    let listeners = app.sheds.listeners().ok_or_else(off)?;
    let listeners = listeners
        .into_iter()
        .map(|(namespace, created_at)| PluginListener { namespace: namespace.to_string(), created_at })
        .collect();
    Ok(Json(PluginListenerList { listeners }))
}

/// List the sheds that can be heard
///
/// They are those whose message channel is open.
#[utoipa::path(
    get,
    path = "/api/plugins/sheds",
    operation_id = "list_plugin_sheds",
    tag = "plugins",
    responses((status = 200, description = "The sheds, sorted by name.", body = PluginShedList), LookErrors)
)]
pub(super) async fn sheds(State(app): State<App>) -> Result<Json<PluginShedList>, ApiError> {
    let names = app.sheds.connected_sheds().ok_or_else(off)?;
    let shed = |name: shed_types::ShedName| PluginShed {
        name: name.to_string(),
        backend: app.info.backend.clone(),
        server: app.info.name.clone(),
    };
    Ok(Json(PluginShedList { sheds: names.into_iter().map(shed).collect() }))
}

/// Listen to what sheds say in a namespace
///
/// Server-sent events: `message` (a `PluginMessage`) for each. A request waits 30 s for its response. Of a shed at most 32
/// messages wait for a listener that reads slowly; more are dropped. The namespace is free again when this ends.
#[utoipa::path(
    get,
    path = "/api/plugins/listeners/{namespace}/messages",
    operation_id = "listen_to_plugin_messages",
    tag = "plugins",
    params(NamespaceParam),
    responses((status = 200, description = "The messages.", content((StreamEvent = "text/event-stream"))), ListenErrors)
)]
pub(super) async fn listen(
    State(app): State<App>,
    NamedNamespace(namespace): NamedNamespace,
) -> Result<Response, ApiError> {
    let place = take_place(&app)?;
    let listening = app.sheds.listen(&namespace)?;
    Ok(tell(&app, place, Messages(listening)))
}

struct Messages(Listening);

impl Teller for Messages {
    async fn next(&mut self) -> Told {
        Told::Event("message", self.0.next().await)
    }
}

/// Respond to a message of a shed
///
/// The body is an envelope; of it `shed.name`, `in_reply_to`, `final` and `payload` are read.
#[utoipa::path(
    post,
    path = "/api/plugins/listeners/{namespace}/respond",
    operation_id = "respond_to_plugin_message",
    tag = "plugins",
    params(NamespaceParam),
    request_body = PluginResponse,
    responses((status = 204, description = "It is on its way to the shed."), RespondErrors)
)]
pub(super) async fn respond(State(app): State<App>, request: Request) -> Result<StatusCode, ApiError> {
    let (mut parts, body) = request.into_parts();
    let NamedNamespace(namespace) = NamedNamespace::from_request_parts(&mut parts, &app).await?;
    let body =
        body::read(&parts.headers, body, MAX_BODY).await.map_err(|bad| bad.of("a response", unreadable))?;
    // serde would read the fields from a list as well.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(unreadable("it is not a JSON object"));
    }
    let response: PluginResponse =
        serde_json::from_slice(&body).map_err(|error| unreadable(&plain(&error)))?;
    if let Some(other) = response.namespace.filter(|named| named != namespace.as_str()) {
        let other: String = other.chars().take(100).collect();
        return Err(unreadable(&format!("its namespace is {other:?}, and that of the path `{namespace}`")));
    }
    let missing = || {
        let message = "the response does not say which shed it is for; set shed.name to that of the message";
        ApiError::new(ErrorCode::MissingShed, message)
    };
    let shed = response.shed.map(|shed| shed.name).filter(|name| !name.is_empty()).ok_or_else(missing)?;
    app.sheds.respond(shed_lifecycle::PluginResponse {
        namespace,
        shed,
        in_reply_to: response.in_reply_to.unwrap_or_default(),
        is_final: response.is_final,
        payload: response.payload,
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says where a body is no JSON of a response, without the words of it: they may be secret.
fn plain(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a field has another type than it should",
        serde_json::error::Category::Eof => "it ends in the middle",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is no JSON",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

fn unreadable(reason: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidBody, format!("invalid response: {reason}"))
}

fn off() -> ApiError {
    ListenError::Off.into()
}

impl From<ListenError> for ApiError {
    fn from(error: ListenError) -> Self {
        let code = match &error {
            ListenError::Off => ErrorCode::PluginsDisabled,
            ListenError::Taken { .. } => ErrorCode::NamespaceAlreadyRegistered,
        };
        Self::from_chain(code, &error)
    }
}

impl From<RespondError> for ApiError {
    fn from(error: RespondError) -> Self {
        let code = match &error {
            RespondError::Off => ErrorCode::PluginsDisabled,
            RespondError::NotConnected { .. } => ErrorCode::ShedNotConnected,
            RespondError::GuestFull { .. } => ErrorCode::ShedBusy,
            RespondError::NotPending { .. } => ErrorCode::RequestNotPending,
            RespondError::TooLong { .. } => ErrorCode::BodyTooLarge,
        };
        Self::from_chain(code, &error)
    }
}
