//! Bodies of requests, read whole: at most so many bytes, in a bounded time. Called by the handlers that take JSON.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, header::CONTENT_LENGTH},
};
use shed_api::ErrorCode;
use shed_types::error_chain;
use tokio::time::timeout;

use super::ApiError;

/// How long the client may take to send one (spec A.1).
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum BadBody {
    /// It is longer than this, in bytes.
    TooLarge(usize),
    /// It did not come in time.
    Late,
    /// It broke off; why.
    Broken(String),
}

impl BadBody {
    /// Makes the reply of it, for the body of `what`; `unreadable` makes that for one that broke off.
    pub(super) fn of(self, what: &str, unreadable: impl FnOnce(&str) -> ApiError) -> ApiError {
        match self {
            Self::TooLarge(most) => {
                ApiError::new(ErrorCode::BodyTooLarge, format!("the body of {what} has at most {most} bytes"))
            }
            Self::Late => {
                let limit = BODY_TIMEOUT.as_secs();
                let message = format!("the body of the request did not arrive within {limit} s");
                ApiError::new(ErrorCode::RequestTimeout, message)
            }
            Self::Broken(why) => unreadable(&why),
        }
    }
}

/// Reads a body of at most `most` bytes.
///
/// # Errors
/// When it is longer, which is found out before it is read where the client says so, or does not come.
pub(super) async fn read(headers: &HeaderMap, body: Body, most: usize) -> Result<Vec<u8>, BadBody> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|value| value.parse::<u64>().ok()).is_some_and(|length| length > most as u64) {
        return Err(BadBody::TooLarge(most));
    }
    match timeout(BODY_TIMEOUT, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) if is_length_limit(&error) => Err(BadBody::TooLarge(most)),
        Ok(Err(error)) => Err(BadBody::Broken(error_chain(&error))),
        Err(_late) => Err(BadBody::Late),
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_waited_for_a_minute() {
        let begun = tokio::time::Instant::now();
        let body = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let bad = read(&HeaderMap::new(), body, 10).await.unwrap_err();
        let error = bad.of("a test", |why| unreachable!("{why}"));
        assert_eq!(error.code, ErrorCode::RequestTimeout);
        assert_eq!(begun.elapsed(), BODY_TIMEOUT);
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_is_refused_by_what_it_says_and_by_what_it_is() {
        let mut announced = HeaderMap::new();
        announced.insert(CONTENT_LENGTH, "11".parse().unwrap());
        for headers in [HeaderMap::new(), announced] {
            let bad = read(&headers, Body::from("x".repeat(11)), 10).await.unwrap_err();
            let error = bad.of("a test", |why| unreachable!("{why}"));
            assert_eq!(error.code, ErrorCode::BodyTooLarge);
            assert!(error.message.contains("a test has at most 10"), "{}", error.message);
        }
        assert_eq!(read(&HeaderMap::new(), Body::from("x".repeat(10)), 10).await.unwrap().len(), 10);
    }
}
