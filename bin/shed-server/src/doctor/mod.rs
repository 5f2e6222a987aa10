//! `shed-server doctor`: says whether this host can run sheds, and what to do about what is in the way.
//!
//! `main` calls [`run`]. It looks, changes nothing and needs no privilege; what only root may see is a warning that says so.
//! A failure is what keeps sheds from being made or run; all else that is not as it could be is a warning.

mod files;
#[cfg(target_os = "linux")]
mod linux;
mod machines;
#[cfg(target_os = "macos")]
mod macos;
mod ports;

use camino::Utf8Path;
use shed_image::Mke2fs;
use shed_lifecycle::{Credential, DefaultImage};
use shed_process::open_files;
use shed_types::{BackendKind, CredentialName, Finding, error_chain};

#[cfg(target_os = "linux")]
use self::linux::check_network;
#[cfg(target_os = "macos")]
use self::macos::check_network;
use crate::{backends, capacity, config::Config, host_key::HostKey, report::Report};

/// Looks at everything that a shed needs.
pub async fn run(config: &Config) -> Report {
    let mut report = Report::default();
    let found = config.file.as_ref().map_or("built-in defaults".to_owned(), ToString::to_string);
    report.add(Finding::pass("configuration", found));
    for key in &config.idle_keys {
        let text = format!("this version of shed-server does not act on the key {key}");
        report.add(Finding::warn("configuration", text).remedy("take it out of server.yaml"));
    }
    let kind = machines::check(config, &mut report).await;
    check_network(config, kind, &mut report).await;
    let section = backends::section(config, kind);
    for (item, path) in [("kernel", &section.kernel_path), ("initramfs", &section.initrd_path)] {
        report.add(files::guest_file(item, path, kind));
    }
    report.add(default_image(config, kind));
    // Formats the empty disk that new sheds copy.
    report.add(match Mke2fs::find() {
        Ok(_found) => Finding::pass("mke2fs", "found"),
        Err(error) => Finding::fail("mke2fs", error_chain(&error)),
    });
    files::check_directories(section, &mut report);
    report.add(host_key(&config.ssh_host_key));
    for (name, credential) in &config.credentials {
        report.add(described(name, credential));
    }
    ports::check(config, &mut report).await;
    report.add(descriptors());
    report
}

/// Says that there is no configuration to look at anything with.
#[must_use]
pub fn unreadable(error: &dyn std::error::Error) -> Report {
    let mut report = Report::default();
    report.add(Finding::fail("configuration", error_chain(error)));
    report
}

fn default_image(config: &Config, kind: BackendKind) -> Finding {
    const ITEM: &str = "default image";
    // The accelerator decides timeouts only, which no image depends on.
    let settings = backends::settings(config, kind, shed_backend::Accelerator::Tcg);
    match shed_lifecycle::default_image(&settings) {
        Ok(DefaultImage::There(path)) => Finding::pass(ITEM, path),
        Ok(DefaultImage::ToPull(reference)) => Finding::pass(ITEM, format!("{reference} (will be pulled)")),
        Err(error) => Finding::fail(ITEM, error_chain(&error)),
    }
}

fn host_key(path: &Utf8Path) -> Finding {
    const ITEM: &str = "SSH host key";
    match HostKey::load(path) {
        Ok(Some(key)) => Finding::pass(ITEM, format!("{path} ({})", key.fingerprint())),
        Ok(None) => match files::writable(path.parent().unwrap_or(path)) {
            Ok(_there) => Finding::pass(ITEM, format!("{path} (will be made)")),
            Err(problem) => Finding::fail(ITEM, problem).remedy("set ssh_host_key in server.yaml"),
        },
        Err(error) => Finding::fail(ITEM, error_chain(&error)),
    }
}

/// One that is not there is left out of a shed, with a warning, and fails nothing.
fn described(name: &CredentialName, credential: &Credential) -> Finding {
    use rustix::{
        fs::{Access, access},
        io::Errno,
    };
    const ITEM: &str = "credential";
    let Credential { source, target, read_only, exclude: _ } = credential;
    let way = if *read_only { "to" } else { "to and from" };
    let text = format!("{name}: {source} {way} {target}");
    match access(source.as_std_path(), Access::READ_OK) {
        Ok(()) => Finding::pass(ITEM, text),
        Err(Errno::NOENT) => Finding::warn(ITEM, format!("{text} (there is none; sheds go without it)"))
            .remedy(format!("put {source} there, or take credentials.{name} out of server.yaml")),
        Err(error) => {
            Finding::warn(ITEM, format!("{text} (it cannot be read: {error}; sheds go without it)"))
                .remedy(format!("let the server's user read {source}"))
        }
    }
}

fn descriptors() -> Finding {
    const ITEM: &str = "open files";
    match open_files::most() {
        Some(most) if most < capacity::LOW => {
            Finding::warn(ITEM, format!("a server may have {most} at once")).remedy(
                "LimitNOFILE=524288 in its unit (`shed-server install` writes it), or `ulimit -Hn 524288`",
            )
        }
        Some(most) => Finding::pass(ITEM, format!("a server may have {most} at once")),
        None => Finding::pass(ITEM, "a server may have any number"),
    }
}
