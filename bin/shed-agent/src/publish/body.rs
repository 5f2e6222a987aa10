//! The body of a publish: read, at most so much of it, and checked into types.

use http_body_util::BodyExt;
use hyper::{Request, body::Incoming, header::EXPECT};
use serde::Deserialize;
use serde_json::Value;
use shed_protocol::{
    EnvelopeKind,
    publish::{MAX_BODY, PublishErrorCode},
};
use shed_types::{Namespace, ParseNamespaceError};
use tokio::sync::Semaphore;

use super::desk::Failure;

/// How much of a body that is too long is read and thrown away, in bytes: closing a connection whose client still sends
/// takes the refusal from it (RFC 9293 §3.10.7.1).
const THROWN_AWAY: usize = 64 << 20;

/// A publish that makes sense.
#[derive(Clone, PartialEq)]
pub(super) struct Publish {
    pub(super) namespace: Namespace,
    pub(super) kind: EnvelopeKind,
    pub(super) payload: Value,
}

/// The body as it comes ([`shed_protocol::publish::PublishRequest`]), each part of which is refused with a code of its own.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    namespace: Option<String>,
    #[serde(rename = "type", default)]
    kind: Option<Value>,
    #[serde(default)]
    payload: Value,
}

/// Reads a body. Never more than [`MAX_BODY`] bytes of it are kept.
pub(super) async fn read(request: Request<Incoming>, places: &Semaphore) -> Result<Vec<u8>, Failure> {
    let waits_for_consent = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    let announced = hyper::body::Body::size_hint(&body).lower();
    if waits_for_consent && announced > MAX_BODY as u64 {
        return Err(too_long());
    }
    let _place = places.acquire().await.expect("the semaphore is never closed");
    let (mut bytes, mut total) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| invalid("it broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total <= MAX_BODY {
            bytes.extend_from_slice(&data);
        } else {
            bytes = Vec::new();
        }
        if total > THROWN_AWAY {
            break;
        }
    }
    if total > MAX_BODY { Err(too_long()) } else { Ok(bytes) }
}

/// Checks a body.
pub(super) fn parse(body: &[u8]) -> Result<Publish, Failure> {
    // serde would read the fields from a list as well, in the order in which they are declared.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(invalid("it is no JSON object"));
    }
    // In the reader's own words there may be some of the payload.
    let raw: Raw = serde_json::from_slice(body).map_err(|error| {
        invalid(&format!("it cannot be read from line {}, column {} on", error.line(), error.column()))
    })?;
    let namespace = raw.namespace.unwrap_or_default().parse().map_err(|error: ParseNamespaceError| {
        Failure::new(PublishErrorCode::MissingNamespace, error.to_string())
    })?;
    let kind = match raw.kind.as_ref().map(Value::as_str) {
        None | Some(Some("request")) => EnvelopeKind::Request,
        Some(Some("event")) => EnvelopeKind::Event,
        Some(Some(_) | None) => return Err(invalid_type()),
    };
    Ok(Publish { namespace, kind, payload: raw.payload })
}

/// Says that a message is of no type that can be published.
pub(super) fn invalid_type() -> Failure {
    Failure::new(PublishErrorCode::InvalidType, "the `type` of a message must be `request` or `event`")
}

fn invalid(reason: &str) -> Failure {
    let message = format!(
        "the body is no message: {reason}. It must be like {{\"namespace\": \"…\", \"type\": \"request\", \"payload\": …}}"
    );
    Failure::new(PublishErrorCode::InvalidBody, message)
}

fn too_long() -> Failure {
    Failure::new(PublishErrorCode::InvalidBody, format!("the body of a message has at most {MAX_BODY} bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn code(body: &str) -> PublishErrorCode {
        match parse(body.as_bytes()) {
            Ok(_) => panic!("{body} was taken"),
            Err(failure) => failure.code,
        }
    }

    #[test]
    fn each_fault_has_its_code() {
        let publish =
            parse(br#" {"namespace":"a","payload":[1],"later":2}"#).unwrap_or_else(|_| panic!("it is good"));
        assert!(publish.kind == EnvelopeKind::Request && publish.payload == json!([1]));
        let event = parse(br#"{"namespace":"a","type":"event"}"#).unwrap_or_else(|_| panic!("it is good"));
        assert!(event.kind == EnvelopeKind::Event && event.payload.is_null());
        for body in ["", "[]", r#"["a","event",1]"#, "1", "{", r#"{"namespace":1}"#, "{}{}", "\u{feff}{}"] {
            assert_eq!(code(body), PublishErrorCode::InvalidBody, "{body}");
        }
        for namespace in ["", "a b", "system:health", "system:", &"x".repeat(129)] {
            let body = json!({ "namespace": namespace }).to_string();
            assert_eq!(code(&body), PublishErrorCode::MissingNamespace, "{body}");
        }
        assert_eq!(code("{}"), PublishErrorCode::MissingNamespace);
        for kind in [json!("response"), json!(""), json!(1), json!({})] {
            let body = json!({ "namespace": "a", "type": kind }).to_string();
            assert_eq!(code(&body), PublishErrorCode::InvalidType, "{body}");
        }
    }

    #[test]
    fn a_refusal_has_nothing_of_the_payload() {
        let body = br#"{"namespace":"a","payload":{"key":"hunter2"},"namespace":"hunter2"}"#;
        let Err(failure) = parse(body) else { panic!("it was taken") };
        assert!(!failure.message.contains("hunter2"), "{}", failure.message);
    }

    #[test]
    fn fuzz_publish_body() {
        let text = prop_oneof!["[ -~]{0,40}", Just("request".to_owned()), Just("system:x".to_owned())];
        let value = prop_oneof![
            text.prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            Just(Value::Null),
            Just(json!({ "a": [1] }))
        ];
        let key = prop::sample::select(vec!["namespace", "type", "payload", "other"]).prop_map(str::to_owned);
        let object = prop::collection::vec((key, value), 0..5)
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect()).to_string().into_bytes());
        let body = prop_oneof![3 => object, 1 => prop::collection::vec(any::<u8>(), 0..100)];
        shed_testkit::fuzz("publish body", &body, |body| {
            if let Ok(publish) = parse(&body) {
                assert!(!publish.namespace.as_str().starts_with("system:"));
                assert_ne!(publish.kind, EnvelopeKind::Response);
            }
        });
    }
}
