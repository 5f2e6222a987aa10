//! The namespace [`NAMESPACE`]: keys of the user's machine, which sign for a guest and never leave.

use serde::{Deserialize, Serialize};

use crate::Binary;

/// Whom a message is for.
pub const NAMESPACE: &str = "ssh-agent";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Request {
    /// Which keys there are; answered by [`Keys`].
    List,
    /// A signature; answered by [`Signature`].
    Sign(Sign),
    /// Whether anybody is there; answered by [`Pong`](crate::Pong).
    Ping,
    /// How the other side works; answered by [`Status`].
    Status,
}

/// What is to be signed, and by which key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// The key: its public part as on the wire (RFC 4253, section 6.6).
    pub public_key: Binary,
    /// What is to be signed.
    pub data: Binary,
    /// How an RSA key signs: [`RSA_SHA2_256`] or [`RSA_SHA2_512`]; 0 for the rest.
    #[serde(default)]
    pub flags: u32,
}

/// Flag of a signature with SHA-256 (RFC 8332; SSH_AGENT_RSA_SHA2_256 of the agent protocol, RFC 9987).
pub const RSA_SHA2_256: u32 = 2;

/// Flag of a signature with SHA-512 (SSH_AGENT_RSA_SHA2_512).
pub const RSA_SHA2_512: u32 = 4;

/// The keys that may sign.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Keys {
    /// In the order in which a client should try them.
    pub keys: Vec<Key>,
}

/// A key that may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Its algorithm, `ssh-ed25519` for example.
    pub format: String,
    /// Its public part as on the wire.
    pub blob: Binary,
    /// For people.
    #[serde(default)]
    pub comment: String,
}

/// A signature (RFC 4253, section 6.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The algorithm, `rsa-sha2-512` for example.
    pub format: String,
    /// The signature in that algorithm's own form.
    pub blob: Binary,
    /// What follows it in a signature of a security key: its flags and counter (OpenSSH's PROTOCOL.u2f).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Binary>,
}

/// How the other side works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it can sign now.
    pub connected: bool,
    /// Where the keys are.
    pub mode: Mode,
    /// How many there are.
    pub key_count: usize,
}

/// Where the keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In the user's own agent.
    AgentForward,
    /// In files of the user.
    LocalKeys,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_shapes_are_those_of_the_specification() {
        let sign = Request::Sign(Sign { public_key: Binary(vec![0]), data: Binary(vec![1, 2]), flags: 4 });
        let golden = json!({"operation": "sign", "public_key": "AA==", "data": "AQI=", "flags": 4});
        assert_eq!(serde_json::to_value(&sign).unwrap(), golden);
        assert_eq!(serde_json::from_value::<Request>(golden).unwrap(), sign);
        assert_eq!(serde_json::to_value(Request::List).unwrap(), json!({"operation": "list"}));
        let status = Status { connected: true, mode: Mode::AgentForward, key_count: 2 };
        let golden = json!({"connected": true, "mode": "agent-forward", "key_count": 2});
        assert_eq!(serde_json::to_value(status).unwrap(), golden);
        assert!(serde_json::from_value::<Request>(json!({"operation": "add"})).is_err());
    }
}
