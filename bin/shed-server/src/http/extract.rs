//! What handlers need of a request, refused in the error shape when it is not there.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::{HeaderMap, header::ACCEPT, request::Parts},
};
use shed_api::ErrorCode;
use shed_types::ShedName;

use super::ApiError;

/// Describes `{name}` in the path of a shed.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it describes what NamedShed reads")]
pub(super) struct ShedNameParam {
    /// Name of the shed: lower-case letters, digits and hyphens, beginning with a letter.
    #[param(pattern = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63)]
    name: String,
}

/// The shed a path names. The path may have other parameters.
#[derive(Debug)]
pub(super) struct NamedShed(pub(super) ShedName);

impl<S: Send + Sync> FromRequestParts<S> for NamedShed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        parse_name(&path_param(parts, state, "name", ErrorCode::InvalidShedName).await?).map(Self)
    }
}

/// Returns a parameter of the path, decoded.
pub(super) async fn path_param<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    key: &'static str,
    code: ErrorCode,
) -> Result<String, ApiError> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|error| ApiError::new(code, error.body_text()))?;
    let value = params.iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_owned());
    Ok(value.expect("the route of a handler has the parameters that the handler reads"))
}

/// Reads a shed's name.
pub(super) fn parse_name(name: &str) -> Result<ShedName, ApiError> {
    name.parse().map_err(|error| ApiError::from_chain(ErrorCode::InvalidShedName, &error))
}

/// How a create or start shall be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyForm {
    /// One JSON object at the end.
    Json,
    /// Events while it goes on, and the object or error as the last one.
    Events,
}

impl ReplyForm {
    /// Reads it from the `Accept` headers (spec A.4).
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        if accepted.any(|value| value.to_ascii_lowercase().contains("text/event-stream")) {
            Self::Events
        } else {
            Self::Json
        }
    }
}

/// Whether a header that lists words has this one, in any case.
pub(super) fn has_word(headers: &HeaderMap, name: axum::http::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue, header::UPGRADE};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fuzz_headers() {
        let value = prop_oneof![
            "((text/event-stream|application/json|\\*/\\*|upgrade|Upgrade|shed-tcp|shed-exec)[ ,;=q0-9.]{0,4}){0,4}",
            "[ -~]{0,40}",
        ];
        let values = prop::collection::vec((any::<bool>(), value), 0..4);
        shed_testkit::fuzz("headers", &values, |values| {
            let mut headers = HeaderMap::new();
            for (accept, value) in &values {
                let name: HeaderName = if *accept { ACCEPT } else { UPGRADE };
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            let of = |wanted: bool| values.iter().filter(move |(accept, _)| *accept == wanted);
            let events = of(true).any(|(_, value)| value.to_lowercase().contains("text/event-stream"));
            assert_eq!(ReplyForm::of(&headers) == ReplyForm::Events, events);
            let tcp = of(false).any(|(_, value)| value.split(',').any(|word| word.trim() == "shed-tcp"));
            assert_eq!(has_word(&headers, UPGRADE, "shed-tcp"), tcp);
        });
    }
}
