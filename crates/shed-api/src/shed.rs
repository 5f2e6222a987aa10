//! Sheds on the wire (spec A.4).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ExtensionState;

/// How a shed is, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ShedStatus {
    /// Its machine runs and its agent has answered.
    Running,
    /// It has no machine; its disk waits.
    Stopped,
    /// It is being created or started.
    Starting,
    /// It is being stopped or deleted.
    Stopping,
    /// Its record or disk is unusable; it can be deleted.
    Error,
}

impl ShedStatus {
    /// Returns the status as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Error => "error",
        }
    }
}

/// A shed. Optional fields are left out when they are empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Shed {
    /// Unique on its server.
    pub name: String,
    /// How it is now.
    pub status: ShedStatus,
    /// When it was created.
    pub created_at: Timestamp,
    /// What the caller gave as repository; passwords are masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Which backend runs it: `qemu`, `firecracker` or `vz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Address of the guest, when the host can reach one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// The VMM process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The shed's own disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs_path: Option<String>,
    /// Host directory mounted at /workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_dir: Option<String>,
    /// Image the shed was made from: its name, or the path of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Last health report of the agent; only while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_healthy: Option<Timestamp>,
    /// When the agent started; only while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// The extensions that the server's configuration enables, by namespace, as the guest last reported them; only while
    /// running.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, ExtensionState>,
    /// Why the status is `error`, or why the last start failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Only in the reply to a create or start: how long each phase took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<PhaseTime>,
    /// Only in the reply to a create, start or stop: what failed without failing the whole, each with its reason; a hook's
    /// has its last lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How long one phase of a create or start took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PhaseTime {
    /// The phase: `image` (only when one had to be made), `record`, `disk`, `vm`, `boot`, `identify`, `commit`; then, while
    /// the shed runs already, `credentials`, `repo` and `provision`, as far as there is something to do.
    pub phase: String,
    /// Milliseconds from the start of the request to the start of the phase.
    pub start_ms: u64,
    /// Milliseconds the phase took.
    pub ms: u64,
}

/// Body of `GET /api/sheds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShedList {
    /// Sorted by name; empty, never null.
    pub sheds: Vec<Shed>,
}

/// Body of `POST /api/sheds`. Unknown keys are ignored; numbers are checked by the server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateShedRequest {
    /// Name of the new shed.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63))]
    pub name: String,
    /// Repository to clone into /workspace: `owner/repo`, `user@host:path`, or an https, http, ssh or git URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "openapi",
        schema(
            max_length = 2048,
            pattern = r"^(|([A-Za-z0-9_][A-Za-z0-9._-]*|\.[A-Za-z0-9_-][A-Za-z0-9._-]*|\.\.[A-Za-z0-9._-]+)/([A-Za-z0-9_][A-Za-z0-9._-]*|\.[A-Za-z0-9_-][A-Za-z0-9._-]*|\.\.[A-Za-z0-9._-]+)|[A-Za-z0-9._][A-Za-z0-9._-]*@[A-Za-z0-9._][A-Za-z0-9._-]*:[!-,.-9;-~][!-~]*|(https|http|ssh|git)://([!-.0-~]+@)?[A-Za-z0-9._][A-Za-z0-9._-]*(:[1-9][0-9]{0,3})?/[!-~]+)$"
        )
    )]
    pub repo: Option<String>,
    /// Image: the name of one of `GET /api/images`; or the path of an ext4 file on the server's host, from `/` or `~/` on;
    /// or a reference to a registry with a tag, a digest or a slash, which is pulled when it is not cached. Absent means the
    /// server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "openapi",
        schema(max_length = 4096, pattern = r"^(|[A-Za-z0-9_\[][!-~]*|(/|~/)[ -~]*)$")
    )]
    pub image: Option<String>,
    /// `detect`, or the backend that `GET /api/info` names; absent means the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(pattern = "^(|qemu|firecracker|vz|detect)$"))]
    pub backend: Option<String>,
    /// Absolute path of a directory on the server's host, without a comma, to mount at /workspace; not together with
    /// `repo`. It must be there, and hold nothing of the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 4095, pattern = "^(|/[^,\\x00]*)$"))]
    pub local_dir: Option<String>,
    /// Virtual CPUs, 1 to 32; absent or 0 means the backend's default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 32))]
    pub cpus: Option<i64>,
    /// Memory in MiB, 128 to 262144; absent or 0 means the backend's default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number")]
    #[cfg_attr(feature = "openapi", schema(schema_with = memory_schema))]
    pub memory_mb: Option<i64>,
    /// Leaves out the install and startup hooks of the repository.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_provision: bool,
}

/// Reads an integer as JSON Schema defines it: a number without a fraction, `2.0` included (JSON Schema validation,
/// section 6.1.1).
fn whole_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    /// Up to here every whole number is exact in a double (IEEE 754).
    const EXACT: f64 = 9_007_199_254_740_992.0;

    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    if let Some(whole) = number.as_i64() {
        return Ok(Some(whole));
    }
    match number.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is within the range")]
        Some(real) if real.fract() == 0.0 && real.abs() <= EXACT => Ok(Some(real as i64)),
        Some(_) | None => {
            Err(serde::de::Error::custom(format!("{number} is no whole number, or far too large")))
        }
    }
}

/// 0 or the range: two schemas, since one has a single range.
#[cfg(feature = "openapi")]
fn memory_schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
    use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, SchemaType, Type};
    let integer = |low: i64, high: i64| {
        let whole = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
        whole.minimum(Some(low)).maximum(Some(high))
    };
    OneOfBuilder::new()
        .item(integer(0, 0))
        .item(integer(128, 262_144))
        .item(ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null)))
        .description(Some("Memory in MiB, 128 to 262144; absent or 0 means the backend's default."))
        .into()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_example_reads_and_writes_back() {
        crate::golden::check::<Shed>(include_str!("../fixtures/shed.json"));
        crate::golden::check::<ShedList>(include_str!("../fixtures/sheds.json"));
    }

    #[test]
    fn a_size_is_a_whole_number_however_it_is_written() {
        let read = |cpus: &str| {
            let request: Result<CreateShedRequest, _> =
                serde_json::from_str(&format!(r#"{{"name":"api","cpus":{cpus}}}"#));
            request.map(|request| request.cpus)
        };
        for (text, number) in [("2", Some(2)), ("2.0", Some(2)), ("-1e1", Some(-10)), ("null", None)] {
            assert_eq!(read(text).unwrap(), number, "{text}");
        }
        for text in ["1.5", "1e300", "9223372036854775808", "\"2\"", "true", "[2]"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_list_is_a_list() {
        assert_eq!(serde_json::to_string(&ShedList { sheds: vec![] }).unwrap(), r#"{"sheds":[]}"#);
    }
}
