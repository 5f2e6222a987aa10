//! The query of a request, read to the letter: a value that is there is a value that is meant (spec A.7, M).
//!
//! A parameter that appears twice without being a list, or whose value is empty or not of its type, is an
//! `INVALID_REQUEST`. Parameters that an operation does not have are ignored.

use std::borrow::Cow;

use axum::{extract::FromRequestParts, http::request::Parts};
use shed_api::ErrorCode;

use super::ApiError;

/// The decoded parameters of a query, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query of a request (WHATWG URL, section 5.1).
    pub(super) fn of(parts: &Parts) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }

    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let pairs = form_urlencoded::parse(text.as_bytes());
        Ok(Self(pairs.map(|(key, value)| (Cow::into_owned(key), Cow::into_owned(value))).collect()))
    }

    /// Returns the values of a parameter that may be repeated, in their order.
    pub(super) fn all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a parameter that stands at most once.
    pub(super) fn one(&self, key: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.all(key);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(""), None) => Err(invalid(key, "", "leave it out, or give it a value")),
            (Some(value), None) => Ok(Some(value)),
            (Some(_), Some(_)) => {
                Err(ApiError::new(ErrorCode::InvalidRequest, format!("`{key}` is given more than once")))
            }
        }
    }

    /// Returns a parameter that is `true` or `false`; absent means false.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ApiError> {
        match self.one(key)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(invalid(key, other, "it must be true or false")),
        }
    }
}

/// Says that a parameter's value is not allowed.
pub(super) fn invalid(key: &str, value: &str, rule: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("`{key}={}`: {rule}", value.escape_debug()))
}

/// The query of a delete.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "its fields describe the query; the value has no effect")]
pub(super) struct KeepVolume {
    /// Accepted for clients of other backends; a machine's disk has no life of its own.
    #[param(required = false)]
    keep_volume: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for KeepVolume {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Self { keep_volume: Query::of(parts)?.flag("keep_volume")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).unwrap()
    }

    #[test]
    fn a_flag_is_true_or_false_and_nothing_else() {
        assert_eq!(query("").flag("x"), Ok(false));
        assert_eq!(query("x=true").flag("x"), Ok(true));
        assert_eq!(query("y=1&x=false").flag("x"), Ok(false));
        for text in ["x", "x=", "x=1", "x=TRUE", "x=true&x=true", "x=true&x=", "x=%00"] {
            let error = query(text).flag("x").unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest, "{text}");
            assert!(error.message.contains("`x"), "{}", error.message);
        }
    }

    #[test]
    fn fuzz_query() {
        let strategy =
            "([a-z_]{0,6}|scope|until|dry_run|keep_volume|%[0-9a-fA-Fx]{0,2}|=|&|\\+|\\PC|;){0,12}";
        shed_testkit::fuzz("query", &strategy, |text: String| {
            let query = query(&text);
            for key in ["dry_run", "until", "keep_volume", ""] {
                let count = query.all(key).count();
                // What is there is either one value that is not empty, or refused.
                match query.one(key) {
                    Ok(None) => assert_eq!(count, 0),
                    Ok(Some(value)) => assert!(count == 1 && !value.is_empty()),
                    Err(error) => assert!(count > 0 && error.code == ErrorCode::InvalidRequest),
                }
                if let Ok(true) = query.flag(key) {
                    assert_eq!(query.one(key), Ok(Some("true")));
                }
            }
        });
    }

    #[test]
    fn a_list_keeps_its_order_and_escapes_are_decoded() {
        let query = query("scope=a%20b&other=1&scope=c+d");
        assert_eq!(query.all("scope").collect::<Vec<_>>(), ["a b", "c d"]);
    }
}
