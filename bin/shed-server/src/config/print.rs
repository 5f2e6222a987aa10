//! Writes a checked configuration as the server.yaml that has every value spelled out (`--print-config`).

use std::fmt;

use super::{Config, LogLevel, images::size_text};

/// Writes a text as a JSON string, which YAML reads as it is.
pub(super) fn quoted(text: &str) -> String {
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
        let enabled: Vec<_> = self.extensions.enabled.iter().map(|ns| quoted(ns.as_str())).collect();
        writeln!(f, "extensions:")?;
        writeln!(f, "  bus: {}", self.extensions.bus)?;
        writeln!(f, "  enabled: [{}]", enabled.join(", "))?;
        self.qemu.fmt(f)?;
        self.firecracker.fmt(f)?;
        self.vz.fmt(f)
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
