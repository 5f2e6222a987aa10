//! Writes a checked configuration as the server.yaml that has every value spelled out (`--print-config`).

use std::fmt::{self, Write};

use shed_types::GoDuration;

use super::{Accel, Config, LogLevel, images::size_text};

/// Writes a text as a JSON string, which YAML reads as it is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => writeln!(f, "# from {file}")?,
            None => writeln!(f, "# no server.yaml was found: every value is a default")?,
        }
        writeln!(f, "name: {}", quoted(&self.name))?;
        writeln!(f, "listen: {}", quoted(&self.listen.to_string()))?;
        writeln!(f, "http_port: {}", self.http_port)?;
        writeln!(f, "ssh_port: {}", self.ssh_port)?;
        writeln!(f, "ssh_host_key: {}", quoted(self.ssh_host_key.as_str()))?;
        writeln!(
            f,
            "default_backend: {}",
            self.default_backend.kind().map_or("detect", |kind| kind.as_str())
        )?;
        writeln!(f, "log_level: {}", self.log_level.as_str())?;
        writeln!(f, "terminal:")?;
        writeln!(f, "  fallback_term: {}", quoted(&self.terms.fallback))?;
        f.write_str("  term_mappings:")?;
        f.write_str(if self.terms.mappings.is_empty() { " {}\n" } else { "\n" })?;
        for (term, meaning) in &self.terms.mappings {
            writeln!(f, "    {}: {}", quoted(term), quoted(meaning))?;
        }
        writeln!(f, "registries:")?;
        let insecure: Vec<_> = self.registries.insecure.iter().map(|host| quoted(host)).collect();
        writeln!(f, "  insecure: [{}]", insecure.join(", "))?;
        match &self.registries.allow {
            Some(allow) => {
                let allow: Vec<_> = allow.iter().map(|host| quoted(host)).collect();
                writeln!(f, "  allow: [{}]", allow.join(", "))?;
            }
            None => writeln!(f, "  # allow: every registry")?,
        }
        match &self.registries.docker_config {
            Some(dir) => writeln!(f, "  docker_config: {}", quoted(dir.as_str()))?,
            None => writeln!(f, "  # docker_config: DOCKER_CONFIG, else ~/.docker")?,
        }
        writeln!(f, "image_limits:")?;
        writeln!(f, "  max_size: {}", quoted(&size_text(self.image_limits.max_bytes)))?;
        writeln!(f, "  max_files: {}", self.image_limits.max_entries)?;
        f.write_str("credentials:")?;
        f.write_str(if self.credentials.is_empty() { " {}\n" } else { "\n" })?;
        for (name, credential) in &self.credentials {
            let exclude: Vec<_> = credential.exclude.iter().map(|pattern| quoted(pattern)).collect();
            writeln!(f, "  {}:", quoted(name.as_str()))?;
            writeln!(f, "    source: {}", quoted(credential.source.as_str()))?;
            writeln!(f, "    target: {}", quoted(credential.target.as_str()))?;
            writeln!(f, "    readonly: {}", credential.read_only)?;
            writeln!(f, "    exclude: [{}]", exclude.join(", "))?;
        }
        match &self.env_file {
            Some(file) => writeln!(f, "env_file: {}", quoted(file.as_str()))?,
            None => writeln!(f, "# env_file: none")?,
        }
        writeln!(f, "git:")?;
        f.write_str("  extra_known_hosts:")?;
        f.write_str(if self.extra_known_hosts.is_empty() { " []\n" } else { "\n" })?;
        for line in &self.extra_known_hosts {
            writeln!(f, "    - {}", quoted(line.as_str()))?;
        }
        let qemu = &self.qemu;
        writeln!(f, "qemu:")?;
        writeln!(f, "  accel: {}", qemu.accel.as_str())?;
        match &qemu.binary {
            Some(binary) => writeln!(f, "  binary: {}", quoted(binary.as_str()))?,
            None => writeln!(f, "  # binary: the qemu-system program of this machine's architecture")?,
        }
        match &qemu.virtiofsd {
            Some(program) => writeln!(f, "  virtiofsd: {}", quoted(program.as_str()))?,
            None => writeln!(f, "  # virtiofsd: the one in PATH and the usual places")?,
        }
        writeln!(f, "  share_cache: {}", qemu.share_cache.as_str())?;
        for (key, path) in [
            ("images_dir", &qemu.images_dir),
            ("instance_dir", &qemu.instance_dir),
            ("socket_dir", &qemu.socket_dir),
            ("kernel_path", &qemu.kernel_path),
            ("initrd_path", &qemu.initrd_path),
        ] {
            writeln!(f, "  {key}: {}", quoted(path.as_str()))?;
        }
        match &qemu.base_rootfs {
            Some(origin) => writeln!(f, "  base_rootfs: {}", quoted(&origin.to_string()))?,
            None => writeln!(f, "  # base_rootfs: the image `default`, else `base`")?,
        }
        f.write_str("  images:")?;
        f.write_str(if qemu.images.is_empty() { " {}\n" } else { "\n" })?;
        for (name, origin) in &qemu.images {
            writeln!(f, "    {}: {}", quoted(name.as_str()), quoted(&origin.to_string()))?;
        }
        writeln!(f, "  default_cpus: {}", qemu.default_cpus)?;
        writeln!(f, "  default_memory_mb: {}", qemu.default_memory_mb)?;
        writeln!(f, "  default_disk_gb: {}", qemu.default_disk_gb)?;
        for (key, value, default) in [
            ("start_timeout", qemu.start_timeout, "1m0s, or 5m0s under software emulation"),
            ("stop_timeout", qemu.stop_timeout, "10s, or 1m0s under software emulation"),
        ] {
            match value {
                Some(value) => writeln!(f, "  {key}: {}", GoDuration::saturating_from(value))?,
                None => writeln!(f, "  # {key}: {default}")?,
            }
        }
        f.write_str("  extra_cmdline: [")?;
        for (index, word) in qemu.extra_cmdline.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            f.write_str(&quoted(word))?;
        }
        f.write_char(']')?;
        f.write_char('\n')
    }
}

impl LogLevel {
    /// Returns the level as it is written in server.yaml.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
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
