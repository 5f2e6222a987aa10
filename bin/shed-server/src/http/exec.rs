//! `GET /api/sheds/{name}/exec`: an HTTP connection becomes a stream to the agent's exec service.
//!
//! The frames are between the client and the agent, and none is parsed here.

use axum::{
    extract::{Request, State},
    response::Response,
};
use shed_api::UPGRADE_EXEC;
use shed_link::relay::FarBreak;
use shed_types::GuestPort;

use super::{
    ApiError, App,
    extract::NamedShed,
    upgrade::{Protocol, Upgrade},
};
use crate::metrics::StreamKind;

/// A command's last frame says that it was the last, so a stream that ends without one was cut off.
const EXEC: Protocol =
    Protocol { name: UPGRADE_EXEC, what: "an exec", kind: StreamKind::Exec, guest_break: FarBreak::IsAnEnd };

/// Not in the API's document: after the upgrade the connection speaks frames, which OpenAPI has no words for, and only
/// clients that share `shed-protocol` with the server can use it.
pub(super) async fn exec(
    State(app): State<App>,
    NamedShed(name): NamedShed,
    mut request: Request,
) -> Result<Response, ApiError> {
    EXEC.is_asked_for(request.headers())?;
    app.sheds.check_running(&name)?;
    let upgrade = Upgrade::of(&mut request, &app, EXEC)?;
    let guest = app.sheds.connect_guest(&name, GuestPort::Exec).await?;
    Ok(upgrade.carry(&app, name, guest))
}
