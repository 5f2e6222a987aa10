//! Which program runs a shed's machine.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A backend that is known by name; whether this server has it is another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// QEMU, with KVM or HVF where they are real and TCG elsewhere.
    Qemu,
    /// Firecracker microVMs (Linux with KVM).
    Firecracker,
    /// Apple's Virtualization framework through vfkit (macOS).
    Vz,
}

/// What a user may write where a backend is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// Let the server pick what works best on its machine.
    #[default]
    Detect,
    /// See [`BackendKind::Qemu`].
    Qemu,
    /// See [`BackendKind::Firecracker`].
    Firecracker,
    /// See [`BackendKind::Vz`].
    Vz,
}

/// Says that a text names no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a backend; use qemu, firecracker, vz or detect")]
pub struct ParseBackendError(String);

impl BackendKind {
    /// Returns the name used on the wire, in config and in state files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
            Self::Vz => "vz",
        }
    }
}

impl BackendChoice {
    /// Returns the one backend this choice names, or nothing for `detect`.
    #[must_use]
    pub const fn kind(self) -> Option<BackendKind> {
        match self {
            Self::Detect => None,
            Self::Qemu => Some(BackendKind::Qemu),
            Self::Firecracker => Some(BackendKind::Firecracker),
            Self::Vz => Some(BackendKind::Vz),
        }
    }
}

impl FromStr for BackendChoice {
    type Err = ParseBackendError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "detect" => Ok(Self::Detect),
            "qemu" => Ok(Self::Qemu),
            "firecracker" => Ok(Self::Firecracker),
            "vz" => Ok(Self::Vz),
            other => Err(ParseBackendError(other.to_owned())),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
