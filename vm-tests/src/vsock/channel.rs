//! The agent's message channel (spec B.5): who it is, and who the machine shall be.

use futures::{SinkExt, StreamExt};
use jiff::Timestamp;
use serde::Serialize;
use shed_link::MuxStream;
use shed_protocol::{
    Envelope, Frame, FrameCodec, FrameKind, HelloReply, HelloRequest, Identify, Mount, SYSTEM_HELLO,
    SYSTEM_IDENTIFY,
};
use shed_types::GuestPort;
use tokio_util::codec::Framed;

use super::VsockMachine;
use crate::BOOT;

/// A channel that is open.
#[derive(Debug)]
pub struct Channel<'a> {
    machine: &'a VsockMachine,
    frames: Framed<MuxStream, FrameCodec>,
    /// What the agent said of itself.
    pub hello: HelloReply,
}

impl VsockMachine {
    /// Opens the channel; returns when the agent has answered.
    ///
    /// # Panics
    /// When it does not within the time of a boot.
    #[track_caller]
    #[must_use]
    pub fn channel(&self) -> Channel<'_> {
        let mut frames = Framed::new(self.stream(GuestPort::Messages), FrameCodec);
        let hello = HelloRequest { generation: 1, version: "test".into(), features: [].into() };
        let asked = ask(&mut frames, SYSTEM_HELLO, &hello);
        let hello: HelloReply = self.wait("the agent's hello", BOOT, asked).parse().expect("a hello");
        Channel { machine: self, frames, hello }
    }
}

impl Channel<'_> {
    /// Tells the machine who it is and what it mounts. Returns what the agent says of it: nothing when all is well.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn identify(&mut self, name: &str, mounts: Vec<Mount>) -> serde_json::Value {
        let identify = Identify {
            name: name.into(),
            hostname: name.into(),
            now: Timestamp::now(),
            machine_id: None,
            random_seed: String::new(),
            network: None,
            image: None,
            mounts,
        };
        let asked = ask(&mut self.frames, SYSTEM_IDENTIFY, &identify);
        self.machine.wait("an identity to be taken", BOOT, asked).payload
    }
}

/// Sends a request and waits for its answer; events are passed over.
async fn ask<T: Serialize>(
    frames: &mut Framed<MuxStream, FrameCodec>,
    namespace: &str,
    payload: &T,
) -> Envelope {
    let request = Envelope::request(namespace, payload);
    frames.send(Frame::json(FrameKind::Message, &request)).await.expect("the agent reads");
    loop {
        let frame = frames.next().await.expect("an answer before the end").expect("a frame");
        let envelope: Envelope = frame.parse().expect("an envelope");
        if envelope.in_reply_to == Some(request.id) {
            return envelope;
        }
    }
}
