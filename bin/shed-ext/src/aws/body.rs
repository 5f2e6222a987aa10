//! What the AWS proxy answers: credentials as AWS's tools read them, and refusals (spec J.3).

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, header};
use serde::Serialize;
use shed_extensions::{Code, aws::Credentials};

use crate::bus::BusError;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Found<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    expiration: String,
}

#[derive(Serialize)]
struct Refused<'a> {
    error: &'a str,
    message: &'a str,
    hint: &'a str,
}

/// Hands credentials over.
pub(super) fn credentials(found: &Credentials) -> Response<Full<Bytes>> {
    let found = Found {
        access_key_id: &found.access_key_id,
        secret_access_key: found.secret_access_key.reveal(),
        token: found.session_token.reveal(),
        expiration: found.expiration.to_string(),
    };
    response(StatusCode::OK, &found)
}

/// Says why there are none.
pub(super) fn refusal(error: &BusError) -> Response<Full<Bytes>> {
    let status = if error.is_of_bus() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY };
    let hint = match error.code() {
        None => "is shed-host-agent running on your machine? See `shed-host-agent status` there",
        Some(Code::RoleNotFound) => {
            "set aws.default_role, or this shed's role, in ~/.config/shed/extensions.yaml on your machine"
        }
        Some(_) => "see the log of shed-host-agent on your machine",
    };
    let what = if error.is_of_bus() { "bus_unavailable" } else { "bad_reply" };
    response(status, &Refused { error: what, message: &error.to_string(), hint })
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is for another host, which a page in a browser has given this address.
    Host,
    /// It is a browser's.
    Browser,
    /// There is nothing under its path.
    Path,
    /// Its method is not GET.
    Method,
}

impl Refusal {
    /// Says it to the client.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let hint = "ask with GET http://127.0.0.1:499/credentials";
        let (status, error, message) = match self {
            Self::Host => (StatusCode::FORBIDDEN, "forbidden", "only requests for the loopback are answered"),
            Self::Browser => (StatusCode::FORBIDDEN, "forbidden", "browsers are not answered"),
            Self::Path => (StatusCode::NOT_FOUND, "not_found", "there is nothing here"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "only GET is answered"),
        };
        let mut response = response(status, &Refused { error, message, hint });
        if self == Self::Method {
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
        }
        response
    }
}

fn response(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    // These are structs of texts, which are always JSON.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
