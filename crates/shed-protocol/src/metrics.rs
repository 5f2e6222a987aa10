//! What a guest uses of its machine, as the agent measures it.

use serde::{Deserialize, Serialize};

/// One measurement. The guest makes it up as it likes: nothing of it is to be trusted for more than display.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Processor time in use since the measurement before, of all processors together: 0 to 100. Absent in the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Processors that are online.
    pub cpus: u32,
    /// Memory in bytes (MemTotal of /proc/meminfo).
    pub memory_total: u64,
    /// Memory in use, in bytes: what is not available (MemAvailable) for new programs.
    pub memory_used: u64,
    /// Size of the file system of /, in bytes.
    pub disk_total: u64,
    /// What is used of it, in bytes.
    pub disk_used: u64,
    /// Load averages over 1, 5 and 15 minutes (proc_loadavg(5)).
    pub load: [f64; 3],
    /// Seconds since the guest's kernel started.
    pub uptime_s: u64,
    /// Processes and threads.
    pub tasks: u64,
}
