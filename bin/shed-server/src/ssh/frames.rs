//! The subsystem in which `shed` runs its commands: the agent's frames, passed on as they are.
//!
//! The first one is looked at, because a terminal's type may be one that guests do not know. What goes wrong before the
//! agent takes over is said in frames as well, so that the client has one protocol to read.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde_json::Value;
use shed_link::relay::{FarBreak, Rules, relay};
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind};
use shed_types::GuestPort;
use tokio_util::codec::{Encoder, FramedRead};

use super::{
    Shared,
    arrive::{Arrival, Refusal, arrive},
    channels::Inlet,
    intake::IntakeReader,
    output::{Gone, Output},
    side::{ChannelSide, GuestEnd},
    term::Terms,
};
use crate::{metrics::StreamKind, streams::OpenStream};

/// How long a client may take to read the last of what a guest said that listens no more.
const LINGER: Duration = Duration::from_secs(10);

/// Exit code of what could not be done (spec F).
const FAILED: i32 = 1;

/// Carries a command's frames until both ends are done.
pub(super) async fn run(shared: &Shared, user: &str, inlet: &Inlet, output: &Output) {
    let work = async {
        if let Err(Refusal(reason)) = carry(shared, user, inlet, output).await {
            tracing::info!(user, reason, "an SSH exec was refused");
            let status = Frame::json(FrameKind::ExitStatus, &ExitStatus::failed(FAILED, reason));
            // Who is gone needs not be told.
            if say(output, status).await.is_ok() {
                let _gone = output.eof().await;
            }
        }
    };
    tokio::select! {
        // Who is gone gets no more work done for him.
        biased;
        () = inlet.gone.cancelled() => tracing::debug!(user, "a client left its command"),
        // The client sees that no exit status has come.
        () = shared.hang_up.cancelled() => {}
        () = work => {}
    }
}

async fn carry(shared: &Shared, user: &str, inlet: &Inlet, output: &Output) -> Result<(), Refusal> {
    let mut frames = FramedRead::new(IntakeReader(inlet.intake.clone()), FrameCodec);
    let first = match frames.next().await {
        Some(Ok(first)) => request(first, &shared.terms)?,
        Some(Err(error)) => return Err(Refusal(format!("the request cannot be read: {error}"))),
        None => return Err(Refusal("the channel ended before a request came".to_owned())),
    };
    let mut early = BytesMut::new();
    FrameCodec
        .encode(first, &mut early)
        .map_err(|error| Refusal(format!("the request cannot be passed on: {error}")))?;
    early.extend_from_slice(frames.read_buffer());
    let note = |line: String| async move {
        // Who is gone is noticed elsewhere.
        let _gone = say(output, Frame::new(FrameKind::Stderr, Bytes::from(line + "\n"))).await;
    };
    let Arrival { shed, place: _place } = arrive(shared, user, note).await?;
    let guest = shared.sheds.connect_guest(&shed, GuestPort::Exec).await?;
    let stream = OpenStream::new(&shared.metrics, StreamKind::SshExec, shed);
    // The last frame says that it was the last, so a stream that ends without one was cut off.
    let rules = Rules { far_break: FarBreak::IsAnEnd, linger: LINGER };
    let side = ChannelSide::new(inlet, output, GuestEnd::IsAll);
    let result = relay(side, &early, guest, rules).await;
    stream.ended(&result);
    Ok(())
}

async fn say(output: &Output, frame: Frame) -> Result<(), Gone> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(frame, &mut bytes).map_err(|_| Gone)?;
    output.data(bytes.freeze()).await
}

/// Checks the first frame, and gives its terminal a type that guests know. Everything else in it stays as it is, also
/// what a newer client has added.
fn request(frame: Frame, terms: &Terms) -> Result<Frame, Refusal> {
    if frame.kind != FrameKind::ExecRequest {
        return Err(Refusal("the first frame is no request".to_owned()));
    }
    let unreadable = |error| Refusal(format!("the request cannot be read: {error}"));
    let checked: ExecRequest = serde_json::from_slice(&frame.payload).map_err(unreadable)?;
    let is_known =
        |entry: &String| entry.strip_prefix("TERM=").is_none_or(|term| terms.in_guest(term) == term);
    if checked.env.iter().all(is_known) {
        return Ok(frame);
    }
    let mut whole: Value = serde_json::from_slice(&frame.payload).map_err(unreadable)?;
    let renamed = |entry: String| match entry.strip_prefix("TERM=") {
        Some(term) => format!("TERM={}", terms.in_guest(term)),
        None => entry,
    };
    let Some(fields) = whole.as_object_mut() else {
        return Err(Refusal("the request cannot be read: it is no JSON object".to_owned()));
    };
    let _old = fields.insert("env".to_owned(), checked.env.into_iter().map(renamed).collect());
    Ok(Frame::json(FrameKind::ExecRequest, &whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(json: &'static str) -> Result<String, String> {
        let frame = Frame::new(FrameKind::ExecRequest, json.into());
        let text = |frame: Frame| String::from_utf8(frame.payload.to_vec()).unwrap();
        request(frame, &Terms::default()).map(text).map_err(|Refusal(reason)| reason)
    }

    #[test]
    fn only_the_terminals_type_is_changed() {
        for same in [
            "{}",
            r#"{"cmd":["vim"],"tty":true,"env":["TERM=xterm"],"later":{"a":[1]}}"#,
            r#"{ "env": ["A=TERM=xterm-kitty"] }"#,
        ] {
            assert_eq!(renamed(same).unwrap(), same);
        }
        let kitty = r#"{"cmd":["vim"],"env":["A=1","TERM=xterm-kitty"],"later":{"a":[1]}}"#;
        assert_eq!(renamed(kitty).unwrap(), kitty.replace("xterm-kitty", "xterm-256color"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bad in ["", "null", "[[],[\"TERM=x\"]]", "{\"cmd\":1}", "{\"env\":[1]}", "x"] {
            assert!(renamed(bad).unwrap_err().contains("cannot be read"), "{bad}");
        }
        let data = request(Frame::empty(FrameKind::Data), &Terms::default());
        assert_eq!(data, Err(Refusal("the first frame is no request".into())));
    }
}
