//! The reply to what is no HTTP request, or none that ends in time: in the error shape, with an id, a line in the access
//! log and a count, like every other reply.

use std::net::SocketAddr;

use axum::http::StatusCode;
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use shed_api::{ErrorBody, ErrorCode, ErrorDetail};
use shed_types::error_chain;
use uuid::Uuid;

use super::wire::Watch;
use crate::metrics::{Metrics, UNMATCHED};

/// Returns what to say before the connection is closed; nothing when there was no request, or it broke off.
pub(super) fn reply_to(
    error: &hyper::Error,
    watch: &Watch,
    peer: SocketAddr,
    metrics: &Metrics,
) -> Option<Vec<u8>> {
    let (code, message) = if error.is_parse_too_large() {
        (
            ErrorCode::HeadersTooLarge,
            "the request's target and headers are longer than this server reads".to_owned(),
        )
    } else if error.is_parse() {
        (ErrorCode::InvalidRequest, format!("the request cannot be read as HTTP: {}", error_chain(error)))
    } else if error.is_timeout() && watch.has_heard() {
        (ErrorCode::RequestTimeout, "the request's headers did not arrive in time".to_owned())
    } else {
        return None;
    };
    let id = Uuid::new_v4().simple();
    let status = StatusCode::from_u16(code.status()).expect("the table of codes holds HTTP statuses only");
    tracing::info_span!("request", %id).in_scope(|| {
        tracing::info!(method = %"-", path = %"-", status = status.as_u16(), %peer, reason = %message, "request");
    });
    metrics.refused(UNMATCHED, status);
    let body = ErrorBody { error: ErrorDetail::new(code, message) };
    let body = serde_json::to_string(&body).expect("an error is plain JSON");
    let date = DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&Timestamp::now())
        .expect("the present is a date of the calendar");
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\ndate: {date}\r\nx-request-id: {id}\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len()
    );
    Some([head.into_bytes(), body.into_bytes()].concat())
}
