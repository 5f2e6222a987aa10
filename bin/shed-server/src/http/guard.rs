//! Refuses requests that a web page makes.
//!
//! The API has no authentication and trusts whoever reaches its port. A browser on the same machine reaches it, too,
//! and sends what any page asks for: a plain POST needs nobody's consent. Browsers put an `Origin` on every POST
//! (Fetch standard, section 3.2), and programs do not, so this tells them apart.

use axum::{
    extract::Request,
    http::header::ORIGIN,
    middleware::Next,
    response::{IntoResponse, Response},
};
use shed_api::ErrorCode;

use super::ApiError;

pub(super) async fn refuse_web_pages(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        let message = "requests with an Origin header come from web pages, and none may use this API";
        return ApiError::new(ErrorCode::InvalidRequest, message).into_response();
    }
    next.run(request).await
}
