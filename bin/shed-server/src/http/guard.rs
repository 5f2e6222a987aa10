//! Refuses what no program with good intentions sends, before any handler sees it.
//!
//! The API has no authentication and trusts whoever reaches its port. A browser on the same machine reaches it, too,
//! and sends what any page asks for: a plain POST needs nobody's consent. Browsers put an `Origin` on every POST
//! (Fetch standard, section 3.2), and programs do not, so this tells them apart.
//!
//! A request that does not say once for which host it is must be refused (RFC 9112 §3.2), and only a GET may turn its
//! connection into a stream: a HEAD is answered by the same handlers.

use axum::{
    extract::Request,
    http::{
        Method, Version,
        header::{HOST, ORIGIN},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use shed_api::ErrorCode;

use super::ApiError;

pub(super) async fn guard(mut request: Request, next: Next) -> Response {
    let refused = |message| ApiError::new(ErrorCode::InvalidRequest, message).into_response();
    if request.headers().contains_key(ORIGIN) {
        return refused("requests with an Origin header come from web pages, and none may use this API");
    }
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return refused("a request has exactly one Host header");
    }
    if request.method() != Method::GET {
        let _upgrade = request.extensions_mut().remove::<OnUpgrade>();
    }
    next.run(request).await
}
