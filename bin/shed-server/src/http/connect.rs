//! `GET /api/sheds/{name}/connect/{port}`: an HTTP connection becomes one to a TCP port in a shed (spec A.8).
//!
//! Reached is the loopback of the guest and nothing else, through the proxy of its agent. Port forwarding and reverse
//! proxies are made of it.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::request::Parts,
    response::Response,
};
use shed_api::{ErrorCode, UPGRADE_TCP};
use shed_lifecycle::DialGuestError;
use shed_link::relay::FarBreak;
use shed_types::TcpPort;

use super::{
    ApiError, App,
    extract::{NamedShed, ShedNameParam, path_param},
    openapi::error_responses,
    upgrade::{Protocol, Upgrade},
};
use crate::metrics::StreamKind;

/// Only the services know what a whole answer is, so a client must see when one was cut off.
const TUNNEL: Protocol = Protocol {
    name: UPGRADE_TCP,
    what: "a tunnel",
    kind: StreamKind::Connect,
    guest_break: FarBreak::IsAnError,
};

error_responses! {
    /// Failures of a tunnel.
    ConnectErrors: InvalidPort, InvalidShedName, ShedNotFound, HijackUnsupported, ConnectFailed, ShedNotRunning
}

/// Describes `{port}` in the path.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it describes what NamedPort reads")]
pub(super) struct PortParam {
    /// TCP port on the shed's loopback address.
    #[param(minimum = 1, maximum = 65535)]
    port: u16,
}

/// The port a path names.
#[derive(Debug)]
pub(super) struct NamedPort(TcpPort);

impl<S: Send + Sync> FromRequestParts<S> for NamedPort {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        parse_port(&path_param(parts, state, "port", ErrorCode::InvalidPort).await?).map(Self)
    }
}

/// Reads a port as it is written: without a sign, and without zeros in front.
fn parse_port(text: &str) -> Result<TcpPort, ApiError> {
    let port: TcpPort = text.parse().map_err(|error| ApiError::from_chain(ErrorCode::InvalidPort, &error))?;
    if text.starts_with('0') {
        let message = format!("{text:?} is not a port: write it without zeros in front, {port}");
        return Err(ApiError::new(ErrorCode::InvalidPort, message));
    }
    Ok(port)
}

/// Connect to a port in a shed
///
/// The connection leaves HTTP: after the reply it carries the bytes of a TCP connection to the port on the shed's
/// loopback address, 127.0.0.1 or else ::1. The end of one direction is passed on and does not end the other. A
/// connection that the service resets is reset, so that what was cut off does not look complete.
#[utoipa::path(
    get,
    path = "/api/sheds/{name}/connect/{port}",
    operation_id = "connect",
    tag = "streams",
    params(
        ShedNameParam,
        PortParam,
        ("Connection" = String, Header, description = "`Upgrade`", pattern = "^Upgrade$"),
        ("Upgrade" = String, Header, description = "`shed-tcp`", pattern = "^shed-tcp$")
    ),
    responses((status = 101, description = "The connection is one to the port from here on."), ConnectErrors)
)]
// The port comes before the name: spec A.8 wants it refused before anything else is.
pub(super) async fn connect(
    State(app): State<App>,
    NamedPort(port): NamedPort,
    NamedShed(name): NamedShed,
    mut request: Request,
) -> Result<Response, ApiError> {
    TUNNEL.is_asked_for(request.headers())?;
    app.sheds.check_running(&name)?;
    let upgrade = Upgrade::of(&mut request, &app, TUNNEL)?;
    let guest = app.sheds.dial(&name, port).await?;
    Ok(upgrade.carry(&app, name, guest))
}

impl From<DialGuestError> for ApiError {
    fn from(error: DialGuestError) -> Self {
        match error {
            DialGuestError::Reach(error) => error.into(),
            DialGuestError::Refused { .. }
            | DialGuestError::NoAnswer { .. }
            | DialGuestError::Protocol { .. }
            | DialGuestError::Broken { .. } => Self::from_chain(ErrorCode::ConnectFailed, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_plain_decimal_number() {
        for text in ["1", "80", "1024", "65535"] {
            assert_eq!(parse_port(text).unwrap().to_string(), text);
        }
        for text in
            ["", "0", "00", "080", "+80", "-80", "65536", "4294967376", "80 ", " 80", "8_0", "0x50", "８０"]
        {
            assert_eq!(parse_port(text).unwrap_err().code, ErrorCode::InvalidPort, "{text:?}");
        }
    }
}
