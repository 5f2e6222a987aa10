//! Envelopes of the message channel (port 1026) and the payloads of the `system:` namespaces.
//!
//! The host dials, sends [`HelloRequest`], gets [`HelloReply`]; then [`Identify`] makes the machine the shed it is;
//! health events flow for as long as the channel is open (spec B.4, B.5; design §4, §5).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shed_types::{GuestPath, Namespace};
use uuid::Uuid;

use crate::{ImageConfig, Metrics, SetupReport};

/// Generation of this protocol. It grows when a message changes its meaning, which adding a field does not do.
pub const GENERATION: u32 = 1;

/// Namespace of [`HelloRequest`] and [`HelloReply`].
pub const SYSTEM_HELLO: &str = "system:hello";
/// Namespace of [`Identify`]; the reply's payload is empty or has an `error`.
pub const SYSTEM_IDENTIFY: &str = "system:identify";
/// Namespace of [`HealthReport`]: the answer to a request, and an event every 30 s.
pub const SYSTEM_HEALTH: &str = "system:health";
/// Namespace of [`GuestEvent`](crate::GuestEvent)s.
pub const SYSTEM_EVENT: &str = "system:event";
/// Namespace of [`WatchCredentials`](crate::WatchCredentials) requests and
/// [`CredentialChanged`](crate::CredentialChanged) events.
pub const SYSTEM_CREDENTIALS: &str = "system:credentials";
/// Namespace of [`CredentialTaken`](crate::CredentialTaken).
pub const SYSTEM_CREDENTIALS_TAKEN: &str = "system:credentials-taken";
/// Namespace of [`OpenLogs`](crate::OpenLogs), answered by [`LogsOpened`](crate::LogsOpened).
pub const SYSTEM_LOGS_OPEN: &str = "system:logs-open";
/// Namespace of [`NextLogs`](crate::NextLogs), answered by [`LogEntries`](crate::LogEntries).
pub const SYSTEM_LOGS_NEXT: &str = "system:logs-next";
/// Namespace of [`CloseLogs`](crate::CloseLogs).
pub const SYSTEM_LOGS_CLOSE: &str = "system:logs-close";
/// Namespace of [`PowerOff`].
pub const SYSTEM_POWER_OFF: &str = "system:power-off";

/// One message (spec A.9). Its debug text is without the payload, which may hold what is not to be logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// UUIDv7, made by the sender.
    pub id: Uuid,
    /// What the message is about; `system:` ones are Shed's own.
    pub namespace: String,
    /// Request, response or event.
    #[serde(rename = "type")]
    pub kind: EnvelopeKind,
    /// The request that a response answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<Uuid>,
    /// Whether more responses to the same request follow; absent means that none do.
    #[serde(rename = "final", default = "yes", skip_serializing_if = "Clone::clone")]
    pub is_final: bool,
    /// When the sender made it.
    pub timestamp: Timestamp,
    /// Whatever the namespace defines.
    #[serde(default)]
    pub payload: serde_json::Value,
    /// The shed that a message comes from. The server says it to listeners; what a guest says is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shed: Option<Origin>,
}

const fn yes() -> bool {
    true
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, namespace, kind, in_reply_to, is_final, timestamp, payload: _, shed } = self;
        f.debug_struct("Envelope")
            .field("id", id)
            .field("namespace", namespace)
            .field("kind", kind)
            .field("in_reply_to", in_reply_to)
            .field("is_final", is_final)
            .field("timestamp", timestamp)
            .field("shed", shed)
            .finish_non_exhaustive()
    }
}

/// The shed that a message of the plugin bus comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Unique on its server.
    pub name: String,
    /// Which backend runs it.
    pub backend: String,
    /// Name of the server.
    pub server: String,
}

/// The three kinds of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvelopeKind {
    /// Wants a response.
    Request,
    /// Answers the request in `in_reply_to`.
    Response,
    /// Wants nothing.
    Event,
}

impl Envelope {
    /// Makes a request.
    #[must_use]
    pub fn request<T: Serialize>(namespace: &str, payload: &T) -> Self {
        Self::new(namespace, EnvelopeKind::Request, None, payload)
    }

    /// Makes an event.
    #[must_use]
    pub fn event<T: Serialize>(namespace: &str, payload: &T) -> Self {
        Self::new(namespace, EnvelopeKind::Event, None, payload)
    }

    /// Makes the response to this request.
    #[must_use]
    pub fn reply<T: Serialize>(&self, payload: &T) -> Self {
        Self::new(&self.namespace, EnvelopeKind::Response, Some(self.id), payload)
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// When the payload is not the JSON of a `T`.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.payload)
    }

    fn new<T: Serialize>(
        namespace: &str,
        kind: EnvelopeKind,
        in_reply_to: Option<Uuid>,
        payload: &T,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            namespace: namespace.to_owned(),
            kind,
            in_reply_to,
            is_final: true,
            timestamp: Timestamp::now(),
            payload: serde_json::to_value(payload).expect("protocol types serialise without error"),
            shed: None,
        }
    }
}

/// What a side can do beyond the generation's basics. Peers ignore names they do not know.
pub type Feature = String;

/// Opens the message channel; sent by the host first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloRequest {
    /// The host's [`GENERATION`].
    pub generation: u32,
    /// Version of the server, for logs.
    pub version: String,
    /// What the host can do.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<Feature>,
}

/// The guest's answer to [`HelloRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The guest's [`GENERATION`].
    pub generation: u32,
    /// Version of the agent.
    pub version: String,
    /// What the agent can do.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<Feature>,
    /// The kernel's boot id; it differs after every boot and stays across agent restarts.
    #[serde(default)]
    pub boot_id: String,
    /// When the agent started, by the guest's clock.
    pub started_at: Timestamp,
}

/// Makes a machine this shed and no other (design §5). It may come again at any time, with other values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identify {
    /// The shed's name.
    pub name: String,
    /// The machine's host name.
    pub hostname: String,
    /// The host's clock; the guest steps its own when it is off by more than a second or two.
    pub now: Timestamp,
    /// 32 lower-case hex digits for /etc/machine-id; absent leaves the machine's own, made at first boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// Hex of at most 512 random bytes for the guest's pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub random_seed: String,
    /// How the machine reaches its network; absent leaves it to the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkIdentity>,
    /// How the programs of its image are to be run; absent when nothing of that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageConfig>,
    /// Host directories that the machine was started with. A mount that fails fails the identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

/// A host directory in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// By which the guest finds the device or the stream: letters, digits and hyphens, at most 36 (virtio 1.2, 5.11.4).
    pub tag: String,
    /// How the guest reaches it.
    #[serde(default, skip_serializing_if = "MountKind::is_virtiofs")]
    pub kind: MountKind,
    /// Where it is mounted; made when it is missing.
    pub target: GuestPath,
    /// Whether the guest may only read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// How a guest reaches a host directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// By a device of the machine.
    #[default]
    Virtiofs,
    /// By 9P2000.L over a stream that the host opens to [`GuestPort::NineP`](shed_types::GuestPort::NineP), beginning with
    /// the tag and a newline.
    #[serde(rename = "9p")]
    NineP,
}

impl MountKind {
    const fn is_virtiofs(&self) -> bool {
        matches!(self, Self::Virtiofs)
    }
}

/// How the machine reaches its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkIdentity {
    /// IPv4 address with prefix length, `10.0.2.15/24`.
    pub address: String,
    /// IPv4 address of the router.
    pub gateway: String,
    /// IPv4 addresses of name servers.
    pub dns: Vec<String>,
    /// Largest packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// Asks for a [`HealthReport`], which is measured anew.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HealthRequest {
    /// Milliseconds between the reports that follow as events, at least 500; absent leaves it as it is, 30,000 at first. It
    /// holds for this channel only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// The extensions that the server's configuration enables: the guest enables their units and reports their states.
    /// Absent leaves them as they are; empty means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<BTreeSet<Namespace>>,
    /// The host's clock, when the guest's seems wrong: the guest steps its own as for [`Identify::now`]. A machine stands
    /// still while its host sleeps, and its clock with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
}

/// How the guest is; answer and event of [`SYSTEM_HEALTH`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthReport {
    /// In one word.
    pub status: HealthStatus,
    /// When the agent started, by the guest's clock.
    pub started_at: Timestamp,
    /// What the guest uses of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// The setup in progress, or else the last one of this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<SetupReport>,
    /// The state of each extension that the host has enabled.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<Namespace, ExtensionReport>,
}

/// How an extension is (spec A.4, J.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionReport {
    /// Its programs in the guest.
    pub guest: ExtensionInGuest,
    /// What answers on the host's side.
    pub host: ExtensionOnHost,
}

/// How the programs of an extension in the guest are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtensionInGuest {
    /// Its unit is active, or it needs none and its manifest is there.
    Running,
    /// Its unit is not active, or the guest has no such extension.
    Stopped,
    /// Its unit failed.
    Failed,
}

/// Whether an extension's host side answers a `ping` over the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtensionOnHost {
    /// It answered.
    Connected,
    /// It did not answer in time.
    Unreachable,
    /// It has not been asked yet.
    Unknown,
}

/// How the guest is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// The agent answers and its file systems can be written.
    Ok,
    /// The agent answers, but the root file system cannot be written.
    Degraded,
}

/// Asks the guest to write everything to its disk and power off. The reply comes before the machine goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PowerOff {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_its_request() {
        let request = Envelope::request(SYSTEM_POWER_OFF, &PowerOff {});
        let reply = request.reply(&PowerOff {});
        assert_eq!(reply.in_reply_to, Some(request.id));
        assert_eq!(reply.kind, EnvelopeKind::Response);
        assert_eq!(reply.namespace, request.namespace);
        assert_ne!(reply.id, request.id);
    }

    #[test]
    fn what_a_message_says_is_in_no_debug_text() {
        let envelope = Envelope::event("ssh-agent", &"hunter2");
        let text = format!("{envelope:?}");
        assert!(text.contains("ssh-agent") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn an_envelope_from_another_sender_parses_with_unknown_keys() {
        let json = r#"{"id":"0192f3c4-5a6b-7c8d-9e0f-a1b2c3d4e5f6","namespace":"system:hello","type":"request","final":true,
            "timestamp":"2026-01-20T10:30:00Z","payload":{"generation":7,"version":"x","later":1}}"#;
        let envelope: Envelope = serde_json::from_str(json).unwrap();
        let hello: HelloRequest = envelope.parse().unwrap();
        assert_eq!((hello.generation, hello.features.len()), (7, 0));
    }

    #[test]
    fn an_identity_without_an_image_is_what_it_was_and_with_one_it_has_a_key_more() {
        let golden = r#"{"name":"web","hostname":"web","now":"2026-01-20T10:30:00Z"}"#;
        let mut identify: Identify = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&identify).unwrap(), golden);
        identify.image = Some(ImageConfig { working_dir: "/app".into(), ..ImageConfig::default() });
        let with_image = golden.replace('}', r#","image":{"working_dir":"/app"}}"#);
        assert_eq!(serde_json::to_string(&identify).unwrap(), with_image);
        assert_eq!(serde_json::from_str::<Identify>(&with_image).unwrap(), identify);
    }
}
