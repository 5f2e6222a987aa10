//! The namespace [`NAMESPACE`]: credentials of registries, from where the user's own Docker keeps them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// Whom a message is for.
pub const NAMESPACE: &str = "docker-credentials";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Request {
    /// Credentials for a registry; answered by [`Credentials`].
    Get {
        /// As Docker says it: a host, perhaps with a scheme and a path.
        server_url: String,
    },
    /// Which registries there are credentials for; answered by [`Registries`].
    List,
    /// Whether anybody is there; answered by [`Pong`](crate::Pong).
    Ping,
    /// How the other side works; answered by [`Status`].
    Status,
}

/// Credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// As it was asked.
    pub server_url: String,
    /// `<token>` when the secret is an identity token.
    pub username: String,
    /// The password or the token.
    pub secret: Secret,
}

/// The registries that there are credentials for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Registries {
    /// Each with its user's name.
    pub registries: BTreeMap<String, String>,
}

/// How the other side works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it has a configuration of Docker to read.
    pub connected: bool,
    /// Whether every registry is allowed.
    pub allow_all: bool,
    /// How many are on the allowlist.
    pub registry_count: usize,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_shapes_are_those_of_the_specification() {
        let get = Request::Get { server_url: "https://r.example/v2".to_owned() };
        let golden = json!({"operation": "get", "server_url": "https://r.example/v2"});
        assert_eq!(serde_json::to_value(&get).unwrap(), golden);
        assert_eq!(serde_json::from_value::<Request>(golden).unwrap(), get);
        let golden = json!({"registries": {"r.example": "me"}});
        let list: Registries = serde_json::from_value(golden.clone()).unwrap();
        assert_eq!(serde_json::to_value(list).unwrap(), golden);
    }
}
