//! `~/.shed/tunnels.yaml`: ports under names, for all sheds and for single ones (spec H.1).
//!
//! There are two ways to write a profile, and both are read in both places: `{description, ports: [{local, remote}]}`
//! and a list of `"3000"` and `"3001:3000"`. Keys that are not known are refused, so that a misspelt one is not
//! ignored, and every refusal has its line.

use std::{collections::BTreeMap, fmt, fs, io, str::FromStr, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use shed_types::{ShedName, TcpPort};

use super::mapping::{self, Mapping};

/// Longest file that is read, in bytes; thousands of profiles are shorter.
const MAX: u64 = 1 << 20;

/// Longest name of a profile, in characters.
const NAME_MAX: usize = 63;

/// Label of ports that were given on the command line.
const EXPLICIT: &str = "explicit";

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelsFileError {
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is longer than {MAX} bytes")]
    TooLong { path: Utf8PathBuf },
    #[error("{path} is not a file of tunnels")]
    Parse {
        path: Utf8PathBuf,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
}

/// Why there are no ports to forward.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("shed {shed} has no tunnel profile {profile}")]
    NoProfile { shed: ShedName, profile: ProfileName, known: Vec<ProfileName> },
    #[error("the tunnel profiles that were chosen for shed {shed} have no ports")]
    NoPorts { shed: ShedName },
}

/// Says why a text is not a profile's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no profile name: use 1 to 63 letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
)]
pub(crate) struct ParseProfileNameError(String);

/// The name of a profile. It has no `+`, which joins several in a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ProfileName(String);

impl ProfileName {
    /// Returns the name of the profile that is used when nothing is chosen.
    pub(crate) fn default_profile() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for ProfileName {
    type Err = ParseProfileNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (1..=NAME_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if good { Ok(Self(text.to_owned())) } else { Err(ParseProfileNameError(text.to_owned())) }
    }
}

impl TryFrom<String> for ProfileName {
    type Error = ParseProfileNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TunnelsFile {
    /// How the connections to the server are made.
    #[serde(default)]
    pub(crate) ssh: Settings,
    #[serde(default)]
    profiles: BTreeMap<ProfileName, Profile>,
    #[serde(default)]
    sheds: BTreeMap<ShedName, ShedTunnels>,
}

/// What the file says of one shed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShedTunnels {
    #[serde(default)]
    profiles: BTreeMap<ProfileName, Profile>,
}

/// How the connections to the server are made. The names are those of ssh, and so is the meaning; tunnels ride on the
/// HTTP API, where TCP itself sees to the peer's being alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Seconds of silence after which the server is asked for a sign of life, 0 to 3600; 0 never asks.
    #[serde(deserialize_with = "within::<_, 3600>")]
    server_alive_interval: u32,
    /// How often it may fail to give one, 0 to 100; 0 never gives up.
    #[serde(deserialize_with = "within::<_, 100>")]
    server_alive_count_max: u32,
    /// Seconds until a connection to the server must stand, 0 to 300; 0 leaves it to the system.
    #[serde(deserialize_with = "within::<_, 300>")]
    connect_timeout: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { server_alive_interval: 30, server_alive_count_max: 3, connect_timeout: 10 }
    }
}

/// When the server is asked for a sign of life, and when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepAlive {
    /// Silence before, and between, the questions.
    pub(crate) interval: Duration,
    /// Questions without an answer.
    pub(crate) count: u32,
}

impl Settings {
    /// Returns how the server's being alive is watched, if it is.
    pub(crate) fn keep_alive(self) -> Option<KeepAlive> {
        (self.server_alive_interval > 0 && self.server_alive_count_max > 0).then_some(KeepAlive {
            interval: Duration::from_secs(self.server_alive_interval.into()),
            count: self.server_alive_count_max,
        })
    }

    /// Returns how long a connection may take, if there is a limit.
    pub(crate) fn connect_timeout(self) -> Option<Duration> {
        (self.connect_timeout > 0).then_some(Duration::from_secs(self.connect_timeout.into()))
    }
}

/// Reads a number from 0 to `MAX`.
fn within<'de, D: Deserializer<'de>, const MAX: u32>(deserializer: D) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if number <= MAX {
        Ok(number)
    } else {
        Err(de::Error::custom(format!("{number} is not from 0 to {MAX}")))
    }
}

/// Ports under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Profile {
    ports: Vec<Mapping>,
}

/// The long form of a profile.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LongProfile {
    /// For the reader of the file.
    #[serde(default)]
    #[expect(dead_code, reason = "it is read so that it must be a text")]
    description: Option<String>,
    ports: Vec<Port>,
}

impl<'de> Deserialize<'de> for Profile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<Port>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of ports, or `ports` with one")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Port>, A::Error> {
                let mut ports = Vec::new();
                while let Some(port) = items.next_element()? {
                    ports.push(port);
                }
                Ok(ports)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<Port>, A::Error> {
                LongProfile::deserialize(MapAccessDeserializer::new(map)).map(|long| long.ports)
            }
        }
        let ports = deserializer.deserialize_any(Reader)?;
        Ok(Self { ports: ports.into_iter().map(|port| port.0).collect() })
    }
}

/// A mapping in any of its forms: `3000`, `"3000"`, `"3001:3000"`, `{local, remote}`.
struct Port(Mapping);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Mapping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port, \"LOCAL:REMOTE\", or `local` and `remote`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Mapping, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Mapping, E> {
                let port = u16::try_from(number).ok().and_then(TcpPort::new);
                port.map(Mapping::same)
                    .ok_or_else(|| E::custom(format!("{number} is not a port: it must be from 1 to 65535")))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Mapping, E> {
                self.visit_u64(u64::try_from(number).unwrap_or(0))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Mapping, A::Error> {
                Mapping::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Reader).map(Self)
    }
}

/// What is to be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Which profiles it is made of: `default`, `web+db+explicit`.
    pub(crate) label: String,
    /// The mappings by local port; at least one.
    pub(crate) ports: Vec<Mapping>,
}

impl TunnelsFile {
    /// Reads the file; a missing one is an empty one.
    ///
    /// # Errors
    /// When it cannot be read or breaks the rules.
    pub(crate) fn load(path: &Utf8Path) -> Result<Self, TunnelsFileError> {
        let read = |source| TunnelsFileError::Read { path: path.to_owned(), source };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(read(error)),
            Ok(metadata) if metadata.len() > MAX => {
                return Err(TunnelsFileError::TooLong { path: path.to_owned() });
            }
            Ok(_) => {}
        }
        let text = fs::read_to_string(path).map_err(read)?;
        Self::parse(&text)
            .map_err(|source| TunnelsFileError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        // YAML reads nothing, or nothing but comments, as null.
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text)
    }

    /// Returns the ports of these profiles and of the command line; those of `default` when neither is given. A shed's
    /// own profile takes the place of the one for all.
    ///
    /// # Errors
    /// When there is no such profile, or nothing is left to forward.
    pub(crate) fn resolve(
        &self,
        shed: &ShedName,
        profiles: &[ProfileName],
        explicit: &[Mapping],
    ) -> Result<Resolved, ResolveError> {
        let default = [ProfileName::default_profile()];
        let chosen = if profiles.is_empty() && explicit.is_empty() { &default[..] } else { profiles };
        let mut ports = Vec::new();
        let mut labels: Vec<&str> = Vec::new();
        for name in chosen {
            let own = self.sheds.get(shed).and_then(|shed| shed.profiles.get(name));
            let Some(profile) = own.or_else(|| self.profiles.get(name)) else {
                return Err(ResolveError::NoProfile {
                    shed: shed.clone(),
                    profile: name.clone(),
                    known: self.known(shed),
                });
            };
            ports.extend(&profile.ports);
            if !labels.contains(&name.0.as_str()) {
                labels.push(&name.0);
            }
        }
        if !explicit.is_empty() {
            ports.extend(explicit);
            labels.push(EXPLICIT);
        }
        let ports = mapping::settle(ports);
        if ports.is_empty() {
            return Err(ResolveError::NoPorts { shed: shed.clone() });
        }
        Ok(Resolved { label: labels.join("+"), ports })
    }

    /// Returns the profiles that a shed may use.
    fn known(&self, shed: &ShedName) -> Vec<ProfileName> {
        let own = self.sheds.get(shed).into_iter().flat_map(|shed| shed.profiles.keys());
        let names: std::collections::BTreeSet<&ProfileName> = own.chain(self.profiles.keys()).collect();
        names.into_iter().cloned().collect()
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
