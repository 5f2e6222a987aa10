//! `shed-server check`: says whether this host can run sheds, and what to do about what is missing.

use std::fmt;

use camino::Utf8Path;
use rustix::{
    fs::{Access, access},
    io::Errno,
};
use shed_backend::Accelerator;
use shed_image::Mke2fs;
use shed_lifecycle::{Credential, DefaultImage};
use shed_types::{BackendKind, CredentialName, error_chain};

use crate::{
    backends::{self, Decision},
    config::Config,
    host_key::HostKey,
};

/// What the check found, a line each.
#[derive(Debug, Default)]
pub struct HostCheck {
    findings: Vec<Finding>,
}

#[derive(Debug)]
struct Finding {
    what: &'static str,
    state: Result<String, String>,
}

impl HostCheck {
    /// Looks at everything that a shed needs.
    pub async fn run(config: &Config) -> Self {
        let mut check = Self::default();
        check.add(
            "configuration",
            Ok(config.file.as_ref().map_or("built-in defaults".to_owned(), ToString::to_string)),
        );
        let kind = check.add_backend(config).await;
        let section = backends::section(config, kind);
        for (what, path) in [("kernel", &section.kernel_path), ("initramfs", &section.initrd_path)] {
            check.add(what, file(path, kind));
        }
        check.add("default image", default_image(config, kind));
        // Formats the empty disk that new sheds copy.
        check.add(
            "mke2fs",
            Mke2fs::find().map(|_found| "found".to_owned()).map_err(|error| error_chain(&error)),
        );
        for (what, path) in [
            ("images", &section.images_dir),
            ("instances", &section.instance_dir),
            ("sockets", &section.socket_dir),
        ] {
            check.add(what, directory(path));
        }
        check.add("SSH host key", host_key(&config.ssh_host_key));
        for (name, credential) in &config.credentials {
            // One that is not there is left out of a shed, with a warning, and fails nothing.
            check.add("credential", Ok(described(name, credential)));
        }
        check
    }

    /// Whether sheds can be made here.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.state.is_ok())
    }

    /// Returns the backend that all else is about.
    async fn add_backend(&mut self, config: &Config) -> BackendKind {
        let decision = backends::decide(config);
        let made = decision
            .and_then(|Decision { kind, reason }| Ok((kind, reason, backends::make(config, kind, &[])?)));
        let (kind, reason, backend) = match made {
            Ok(made) => made,
            Err(error) => {
                self.add("backend", Err(error_chain(&error)));
                return BackendKind::Qemu;
            }
        };
        self.add("backend", Ok(format!("{kind}: {reason}")));
        match backend.check_host().await {
            Ok(report) => {
                self.add("machine monitor", Ok(report.vmm));
                let name = match report.accelerator {
                    Accelerator::Kvm => "KVM",
                    Accelerator::Hvf => "HVF",
                    Accelerator::Tcg => "TCG, software emulation",
                };
                self.add("accelerator", Ok(format!("{name}: {}", report.reason)));
            }
            Err(error) => self.add("machine monitor", Err(error_chain(&error))),
        }
        kind
    }

    fn add(&mut self, what: &'static str, state: Result<String, String>) {
        self.findings.push(Finding { what, state });
    }
}

fn file(path: &Utf8Path, kind: BackendKind) -> Result<String, String> {
    if path.is_file() {
        Ok(path.to_string())
    } else {
        Err(format!(
            "{path} is missing; build it with `./x build`, or say where it is with {kind}.images_dir in server.yaml"
        ))
    }
}

fn default_image(config: &Config, kind: BackendKind) -> Result<String, String> {
    // The accelerator decides timeouts only, which no image depends on.
    let settings = backends::settings(config, kind, Accelerator::Tcg);
    match shed_lifecycle::default_image(&settings) {
        Ok(DefaultImage::There(path)) => Ok(path.into_string()),
        Ok(DefaultImage::ToPull(reference)) => Ok(format!("{reference} (will be pulled)")),
        Err(error) => Err(error_chain(&error)),
    }
}

fn host_key(path: &Utf8Path) -> Result<String, String> {
    match HostKey::load(path) {
        Ok(Some(key)) => Ok(format!("{path} ({})", key.fingerprint())),
        Ok(None) => directory(path.parent().unwrap_or(path)).map(|_there| format!("{path} (will be made)")),
        Err(error) => Err(error_chain(&error)),
    }
}

fn described(name: &CredentialName, credential: &Credential) -> String {
    let Credential { source, target, read_only, exclude: _ } = credential;
    let way = if *read_only { "to" } else { "to and from" };
    let state = match access(source.as_std_path(), Access::READ_OK) {
        Ok(()) => "",
        Err(Errno::NOENT) => " (there is none; sheds go without it)",
        Err(_) => " (it cannot be read; sheds go without it)",
    };
    format!("{name}: {source} {way} {target}{state}")
}

/// A directory is fine when it can be written to, or made.
fn directory(path: &Utf8Path) -> Result<String, String> {
    let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Utf8Path::new("/"));
    match access(there.as_std_path(), Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if there == path => Ok(path.to_string()),
        Ok(()) => Ok(format!("{path} (will be made)")),
        Err(error) => Err(format!("{there} cannot be written to: {error}; choose another in server.yaml")),
    }
}

impl fmt::Display for HostCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { what, state } in &self.findings {
            match state {
                Ok(text) => writeln!(f, "ok       {what:<16} {text}")?,
                Err(text) => writeln!(f, "MISSING  {what:<16} {text}")?,
            }
        }
        Ok(())
    }
}
