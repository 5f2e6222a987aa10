//! The bus as the server offers it: who listens, which sheds there are, and responses of listeners.

use std::fmt;

use jiff::Timestamp;
use shed_protocol::{Envelope, EnvelopeKind, Frame, FrameKind, MAX_PAYLOAD};
use shed_types::{Namespace, ShedName};
use uuid::Uuid;

use super::{
    Bus, Listening, PluginOutcome,
    board::{Refused, Response},
};
use crate::Sheds;

/// A response of a listener to a request of a shed.
pub struct PluginResponse {
    /// The namespace that it was asked in.
    pub namespace: Namespace,
    /// The shed that asked, in the caller's words.
    pub shed: String,
    /// The request's id, in the caller's words.
    pub in_reply_to: String,
    /// Whether no more follow.
    pub is_final: bool,
    /// Whatever the namespace defines.
    pub payload: serde_json::Value,
}

impl fmt::Debug for PluginResponse {
    /// Leaves out the payload, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginResponse")
            .field("namespace", &self.namespace)
            .field("shed", &self.shed)
            .field("in_reply_to", &self.in_reply_to)
            .finish_non_exhaustive()
    }
}

/// Why nobody can listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    #[error("the plugin bus of this server is turned off; its server.yaml says `extensions.bus: false`")]
    Off,
    #[error("somebody listens to `{namespace}` already; each namespace has one listener at a time")]
    Taken { namespace: Namespace },
}

/// Why a response reaches no guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RespondError {
    #[error("the plugin bus of this server is turned off; its server.yaml says `extensions.bus: false`")]
    Off,
    #[error("there is no running shed named {shed:?} whose agent can be reached")]
    NotConnected { shed: String },
    #[error(
        "shed `{shed}` does not read its responses, and has as many waiting as may wait; answer it later, or not at all"
    )]
    GuestFull { shed: ShedName },
    #[error(
        "shed `{shed}` waits for no such response in namespace `{namespace}`: it was answered, has given up, or never asked"
    )]
    NotPending { shed: ShedName, namespace: Namespace },
    #[error("the response has {bytes} bytes with what goes around it; a guest takes at most {MAX_PAYLOAD}")]
    TooLong { bytes: usize },
}

impl Sheds {
    /// Begins to listen to what sheds say in a namespace. Nobody else can until the result is dropped.
    ///
    /// # Errors
    /// When the bus is off, or somebody listens already.
    pub fn listen(&self, namespace: &Namespace) -> Result<Listening, ListenError> {
        let bus = self.bus();
        if !bus.settings.on {
            return Err(ListenError::Off);
        }
        bus.listen(namespace).ok_or_else(|| ListenError::Taken { namespace: namespace.clone() })
    }

    /// Returns who listens, and since when, sorted by namespace; nothing when the bus is off.
    #[must_use]
    pub fn listeners(&self) -> Option<Vec<(Namespace, Timestamp)>> {
        let bus = self.bus();
        bus.settings.on.then(|| bus.lock().board.listeners())
    }

    /// Returns the sheds whose message channels are open, sorted by name; nothing when the bus is off.
    #[must_use]
    pub fn connected_sheds(&self) -> Option<Vec<ShedName>> {
        let bus = self.bus();
        bus.settings.on.then(|| bus.lock().board.sheds())
    }

    /// Puts a response on its way to the shed that asked for it.
    ///
    /// # Errors
    /// When that shed cannot be reached or waits for no such response, or it is too long.
    pub fn respond(&self, response: PluginResponse) -> Result<(), RespondError> {
        self.bus().respond_to(response)
    }

    /// Has somebody told what becomes of messages, and of how many; only the first is.
    pub fn when_plugin_messages(&self, count: impl Fn(PluginOutcome, u64) + Send + Sync + 'static) {
        let _second = self.bus().count.set(Box::new(count));
    }
}

impl Bus {
    fn respond_to(&self, response: PluginResponse) -> Result<(), RespondError> {
        let PluginResponse { namespace, shed, in_reply_to, is_final, payload } = response;
        if !self.settings.on {
            return Err(RespondError::Off);
        }
        let Ok(name) = shed.parse::<ShedName>() else {
            self.counted(PluginOutcome::NotConnected, 1);
            return Err(RespondError::NotConnected { shed: shed.chars().take(100).collect() });
        };
        let to = in_reply_to.parse::<Uuid>().ok();
        let envelope = Envelope {
            id: Uuid::now_v7(),
            namespace: namespace.to_string(),
            kind: EnvelopeKind::Response,
            in_reply_to: to,
            is_final,
            timestamp: Timestamp::now(),
            payload,
            shed: None,
        };
        let frame = Frame::json(FrameKind::Message, &envelope);
        if frame.payload.len() > MAX_PAYLOAD {
            return Err(RespondError::TooLong { bytes: frame.payload.len() });
        }
        self.respond(&name, &namespace, Response { to, is_final, frame }).map_err(|refused| match refused {
            Refused::NotConnected => RespondError::NotConnected { shed },
            Refused::Full => RespondError::GuestFull { shed: name },
            Refused::NotPending => RespondError::NotPending { shed: name, namespace },
        })
    }
}
