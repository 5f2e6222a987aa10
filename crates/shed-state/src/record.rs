//! What is kept of a shed: the content of `metadata.json` (spec C.1).
//!
//! Records change only by adding optional fields; a golden file of each version stays in the tests.

use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shed_types::{BackendKind, CpuCount, DiskGb, ImageName, LaunchId, MemoryMb, NetworkLease, ShedName};

/// Version of the record's layout.
pub const RECORD_VERSION: u32 = 1;

/// What the record says about the shed. It says what was intended or known when it was written: a crash may have
/// come in between, and the server's next start makes the two agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordStatus {
    /// A create has begun and not ended; after a crash all of it is undone.
    Creating,
    /// A start has begun and not ended.
    Starting,
    /// The machine runs and its agent has answered.
    Running,
    /// A stop has begun and not ended.
    Stopping,
    /// There is no machine.
    Stopped,
    /// A delete has begun and not ended; after a crash it goes on.
    Deleting,
}

/// One launch of the machine. Written before the VMM is started, so that a crash right after finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Is on the VMM's command line.
    pub launch_id: LaunchId,
    /// The process, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When the process started, in the system's own unit; with the pid it names one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// What is to be done in the guest once it runs, so that a server that comes after a crash can tell what was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<PlannedSetup>,
}

/// What is to be done in a guest once it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedSetup {
    /// The repository is cloned, and its install and startup hooks run.
    Create,
    /// The repository is cloned, and no hook runs.
    CreateWithoutHooks,
    /// The startup hook runs.
    Start,
}

/// The record of a shed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShedRecord {
    /// [`RECORD_VERSION`] of the server that wrote it.
    pub version: u32,
    /// The shed's name; also that of its directory.
    pub name: ShedName,
    /// See [`RecordStatus`].
    pub status: RecordStatus,
    /// When it was created.
    pub created_at: Timestamp,
    /// What runs it.
    pub backend: BackendKind,
    /// Virtual CPUs.
    pub cpus: CpuCount,
    /// Memory in MiB.
    pub memory_mb: MemoryMb,
    /// Size of its own disk in GiB.
    pub disk_gb: DiskGb,
    /// The image it was made from, when that has a name. Neither this nor [`Self::image_path`] means the configured base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// The file it was made from, when that has no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_path: Option<Utf8PathBuf>,
    /// Repository, as the caller gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Host directory at /workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_dir: Option<Utf8PathBuf>,
    /// What it has on the host's network, from its first boot on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkLease>,
    /// The launch in progress; absent without a machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmRecord>,
    /// Why the last start failed or the machine ended, until the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_reads_and_writes_back_for_ever() {
        let json = include_str!("../fixtures/metadata-v1.json");
        let record: ShedRecord = serde_json::from_str(json).unwrap();
        assert_eq!(record.status, RecordStatus::Running);
        assert_eq!(serde_json::to_string_pretty(&record).unwrap(), json.trim_end());
    }

    #[test]
    fn a_record_of_a_shed_from_a_file_reads_and_writes_back() {
        let json = include_str!("../fixtures/metadata-v1-path.json");
        let record: ShedRecord = serde_json::from_str(json).unwrap();
        assert_eq!((record.image, record.image_path.as_deref()), (None, Some("/srv/tools.ext4".into())));
        let record: ShedRecord = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string_pretty(&record).unwrap(), json.trim_end());
    }

    #[test]
    fn a_launch_with_a_planned_setup_reads_and_writes_back() {
        let mut record: ShedRecord =
            serde_json::from_str(include_str!("../fixtures/metadata-v1.json")).unwrap();
        let vm = record.vm.as_mut().unwrap();
        for (setup, text) in [
            (PlannedSetup::Create, "create"),
            (PlannedSetup::CreateWithoutHooks, "create_without_hooks"),
            (PlannedSetup::Start, "start"),
        ] {
            vm.setup = Some(setup);
            let json = serde_json::to_value(*vm).unwrap();
            assert_eq!(json["setup"], text);
            assert_eq!(serde_json::from_value::<VmRecord>(json).unwrap(), *vm);
        }
    }

    #[test]
    fn a_record_with_impossible_values_is_refused() {
        let good: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/metadata-v1.json")).unwrap();
        for (key, value) in [
            ("name", "../x".into()),
            ("cpus", 0.into()),
            ("status", "dancing".into()),
            ("memory_mb", (-1).into()),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(serde_json::from_value::<ShedRecord>(bad).is_err(), "{key}");
        }
    }
}
