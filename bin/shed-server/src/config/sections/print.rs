//! Writes sections with every value spelled out (`--print-config`).

use std::{
    fmt::{self, Write},
    time::Duration,
};

use camino::Utf8Path;
use shed_types::GoDuration;

use super::{
    super::print::quoted,
    {Accel, CommonSection, FirecrackerSection, JailerChoice, QemuSection, VzSection},
};

/// Writes a path, or what stands for it when there is none.
fn path(f: &mut fmt::Formatter<'_>, key: &str, value: Option<&Utf8Path>, default: &str) -> fmt::Result {
    match value {
        Some(path) => writeln!(f, "  {key}: {}", quoted(path.as_str())),
        None => writeln!(f, "  # {key}: {default}"),
    }
}

impl fmt::Display for QemuSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "qemu:")?;
        writeln!(f, "  accel: {}", self.accel.as_str())?;
        let program = "the qemu-system program of this machine's architecture";
        path(f, "binary", self.binary.as_deref(), program)?;
        path(f, "virtiofsd", self.virtiofsd.as_deref(), "the one in PATH and the usual places")?;
        writeln!(f, "  share_cache: {}", self.share_cache.as_str())?;
        let start = "1m0s, or 5m0s under software emulation";
        common(f, &self.common, start, "10s, or 1m0s under software emulation")
    }
}

impl fmt::Display for FirecrackerSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "firecracker:")?;
        path(f, "binary", self.binary.as_deref(), "the one in PATH and the usual places")?;
        writeln!(f, "  seccomp: {}", if self.seccomp { "on" } else { "off" })?;
        writeln!(f, "  jailer: {}", self.jailer.as_str())?;
        path(f, "jailer_path", self.jailer_path.as_deref(), "the one beside Firecracker")?;
        writeln!(f, "  jail_dir: {}", quoted(self.jail_dir.as_str()))?;
        writeln!(f, "  jail_uid_base: {}", self.jail_uid_base)?;
        writeln!(f, "  vsock_base_cid: {}", self.vsock_base_cid)?;
        writeln!(f, "  bridge_name: {}", self.bridge_name)?;
        writeln!(f, "  bridge_cidr: {}", self.bridge_cidr)?;
        writeln!(f, "  tap_prefix: {}", self.tap_prefix)?;
        match self.dns.is_empty() {
            true => writeln!(f, "  # dns: the host's name servers")?,
            false => {
                let dns: Vec<String> = self.dns.iter().map(ToString::to_string).collect();
                writeln!(f, "  dns: [{}]", dns.join(", "))?;
            }
        }
        common(f, &self.common, "30s", "10s")
    }
}

impl fmt::Display for VzSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "vz:")?;
        writeln!(f, "  vfkit_path: {}", quoted(self.vfkit_path.as_str()))?;
        common(f, &self.common, "1m0s", "10s")
    }
}

fn common(f: &mut fmt::Formatter<'_>, section: &CommonSection, start: &str, stop: &str) -> fmt::Result {
    for (key, path) in [
        ("images_dir", &section.images_dir),
        ("instance_dir", &section.instance_dir),
        ("socket_dir", &section.socket_dir),
        ("kernel_path", &section.kernel_path),
        ("initrd_path", &section.initrd_path),
    ] {
        writeln!(f, "  {key}: {}", quoted(path.as_str()))?;
    }
    match &section.base_rootfs {
        Some(origin) => writeln!(f, "  base_rootfs: {}", quoted(&origin.to_string()))?,
        None => writeln!(f, "  # base_rootfs: the image `default`, else `base`")?,
    }
    f.write_str("  images:")?;
    f.write_str(if section.images.is_empty() { " {}\n" } else { "\n" })?;
    for (name, origin) in &section.images {
        writeln!(f, "    {}: {}", quoted(name.as_str()), quoted(&origin.to_string()))?;
    }
    writeln!(f, "  default_cpus: {}", section.default_cpus)?;
    writeln!(f, "  default_memory_mb: {}", section.default_memory_mb)?;
    writeln!(f, "  default_disk_gb: {}", section.default_disk_gb)?;
    timeout(f, "start_timeout", section.start_timeout, start)?;
    timeout(f, "stop_timeout", section.stop_timeout, stop)?;
    f.write_str("  extra_cmdline: [")?;
    for (index, word) in section.extra_cmdline.iter().enumerate() {
        f.write_str(if index == 0 { "" } else { ", " })?;
        f.write_str(&quoted(word))?;
    }
    f.write_char(']')?;
    f.write_char('\n')
}

fn timeout(f: &mut fmt::Formatter<'_>, key: &str, value: Option<Duration>, default: &str) -> fmt::Result {
    match value {
        Some(value) => writeln!(f, "  {key}: {}", GoDuration::saturating_from(value)),
        None => writeln!(f, "  # {key}: {default}"),
    }
}

impl JailerChoice {
    /// Returns the choice as it is written in server.yaml.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl Accel {
    /// Returns the choice as it is written in server.yaml.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Tcg => "tcg",
        }
    }
}
