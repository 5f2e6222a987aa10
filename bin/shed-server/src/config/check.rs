//! Turns the plain shapes of server.yaml into a [`Config`], checking each value once.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use serde_saphyr::{Location, Spanned};
use shed_api::{DEFAULT_HTTP_PORT, DEFAULT_SSH_PORT};
use shed_image::ImageOrigin;
use shed_types::{BackendChoice, GoDuration, ParseReferenceError, SizeError};

use super::{
    Config, LoadConfigError, LogLevel, Surroundings,
    file::{RemovedKeys, ServerFile, TerminalFile},
    locate::User,
    sections,
};
use crate::ssh::term::{DEFAULT_TERM, Terms, is_term};

/// Allowed start and stop timeouts (spec C.6).
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 60);

/// The file the values are from, for error messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    file: Option<&'a Utf8Path>,
}

/// Checks every value and fills in the defaults.
pub(super) fn check(
    raw: ServerFile,
    file: Option<&Utf8Path>,
    surroundings: &Surroundings,
) -> Result<Config, LoadConfigError> {
    let source = Source { file };
    let idle_keys = idle_keys(&raw);
    let name = match raw.name {
        None => "shed-server".to_owned(),
        Some(name) => {
            let text = name.value.trim();
            if text.is_empty() || text.chars().any(char::is_control) {
                return Err(source.bad(
                    &name,
                    "name",
                    "must have a visible character and no control character",
                ));
            }
            text.to_owned()
        }
    };
    let listen = match raw.listen {
        None => IpAddr::from([127, 0, 0, 1]),
        Some(listen) => listen.value.parse().map_err(|_| {
            let problem = format!(
                "{:?} is not an IP address; use 127.0.0.1 for this machine only, 0.0.0.0 for every interface",
                listen.value
            );
            source.bad(&listen, "listen", problem)
        })?,
    };
    let ssh_port = source.port(raw.ssh_port.as_ref(), "ssh_port", DEFAULT_SSH_PORT, 0)?;
    let http_port = source.port(raw.http_port.as_ref(), "http_port", DEFAULT_HTTP_PORT, 0)?;
    // Two ports of the system's choice differ.
    if http_port == ssh_port && http_port != 0 {
        let problem = format!("must differ from ssh_port, and both are {http_port}");
        return Err(source.error(
            raw.http_port.or(raw.ssh_port).map(|port| port.referenced),
            "http_port",
            problem,
        ));
    }
    let default_backend = match raw.default_backend {
        None => BackendChoice::Detect,
        Some(choice) => choice
            .value
            .parse()
            .map_err(|error| source.bad(&choice, "default_backend", format!("{error}")))?,
    };
    let log_level = source.word(
        raw.log_level.as_ref(),
        "log_level",
        &[
            ("debug", LogLevel::Debug),
            ("info", LogLevel::Info),
            ("warn", LogLevel::Warn),
            ("error", LogLevel::Error),
        ],
    )?;
    let terms = terms(raw.terminal.unwrap_or_default(), source)?;
    let qemu = sections::qemu(raw.qemu.unwrap_or_default(), source, surroundings)?;
    let firecracker = sections::firecracker(raw.firecracker.unwrap_or_default(), source, surroundings)?;
    let vz = sections::vz(raw.vz.unwrap_or_default(), source, surroundings)?;
    let registries = super::images::registries(raw.registries.unwrap_or_default(), source, surroundings)?;
    let image_limits = super::images::limits(&raw.image_limits.unwrap_or_default(), source)?;
    let env_file = source.path(raw.env_file.as_ref(), "env_file", surroundings)?;
    let extra_known_hosts = super::project::known_hosts(raw.git.unwrap_or_default(), source)?;
    let extensions = super::extensions::extensions(raw.extensions.unwrap_or_default(), source)?;
    let ssh_host_key = match source.path(raw.ssh_host_key.as_ref(), "ssh_host_key", surroundings)? {
        Some(path) => path,
        None => default_host_key(surroundings)?,
    };
    let mut own = vec![
        ("qemu.images_dir", qemu.common.images_dir.as_path()),
        ("qemu.instance_dir", &qemu.common.instance_dir),
        ("qemu.socket_dir", &qemu.common.socket_dir),
        ("firecracker.images_dir", &firecracker.common.images_dir),
        ("firecracker.instance_dir", &firecracker.common.instance_dir),
        ("firecracker.socket_dir", &firecracker.common.socket_dir),
        ("firecracker.jail_dir", &firecracker.jail_dir),
        ("vz.images_dir", &vz.common.images_dir),
        ("vz.instance_dir", &vz.common.instance_dir),
        ("vz.socket_dir", &vz.common.socket_dir),
        ("ssh_host_key", &ssh_host_key),
    ];
    own.extend(env_file.as_deref().map(|path| ("env_file", path)));
    own.extend(file.map(|path| ("server.yaml", path)));
    let credentials =
        super::credentials::credentials(raw.credentials.unwrap_or_default(), &own, source, surroundings)?;
    Ok(Config {
        idle_keys,
        file: file.map(Utf8Path::to_owned),
        name,
        listen,
        http_port,
        ssh_port,
        ssh_host_key,
        default_backend,
        log_level: log_level.unwrap_or_default(),
        terms,
        registries,
        image_limits,
        credentials,
        home: surroundings.home.clone(),
        env_file,
        extra_known_hosts,
        extensions,
        qemu,
        firecracker,
        vz,
    })
}

/// Refuses keys that are gone.
pub(super) fn refuse_removed_keys(raw: &RemovedKeys, file: &Utf8Path) -> Result<(), LoadConfigError> {
    let source = Source { file: Some(file) };
    let keys = [
        ("enabled_backends", &raw.enabled_backends, "is gone; name the one backend in `default_backend`"),
        ("docker", &raw.docker, "is gone with the Docker backend; sheds are machines now, see `qemu:`"),
    ];
    match keys.into_iter().find_map(|(key, value, hint)| value.as_ref().map(|value| (key, value, hint))) {
        None => Ok(()),
        Some((key, value, hint)) => Err(source.bad(value, key, hint)),
    }
}

/// Returns the keys in the file that this build does not act on.
fn idle_keys(raw: &ServerFile) -> Vec<&'static str> {
    let keys = [("default_image", raw.default_image.is_some())];
    let vz_ports = raw.vz.iter().flat_map(|section| {
        [
            ("vz.console_port", section.console_port.is_some()),
            ("vz.health_port", section.health_port.is_some()),
            ("vz.notify_port", section.notify_port.is_some()),
            ("vz.tcp_proxy_port", section.tcp_proxy_port.is_some()),
        ]
    });
    let ports = raw.firecracker.iter().flat_map(|section| {
        [
            ("firecracker.console_port", section.console_port.is_some()),
            ("firecracker.health_port", section.health_port.is_some()),
            ("firecracker.notify_port", section.notify_port.is_some()),
        ]
    });
    keys.into_iter().chain(ports).chain(vz_ports).filter(|(_, there)| *there).map(|(key, _)| key).collect()
}

fn terms(raw: TerminalFile, source: Source<'_>) -> Result<Terms, LoadConfigError> {
    let checked = |value: Spanned<String>, key: &str| {
        if is_term(&value.value) {
            return Ok(value.value);
        }
        let problem = format!(
            "{:?} is no terminal type; write one that `infocmp` knows in the image, like {DEFAULT_TERM}",
            value.value
        );
        Err(source.bad(&value, key, problem))
    };
    let mut terms = Terms::default();
    if let Some(fallback) = raw.fallback_term {
        terms.fallback = checked(fallback, "terminal.fallback_term")?;
    }
    for (term, meaning) in raw.term_mappings.unwrap_or_default() {
        let key = format!("terminal.term_mappings.{term}");
        if !is_term(&term) {
            return Err(source.bad(
                &meaning,
                &key,
                "the key is no terminal type; write it as the client's TERM has it",
            ));
        }
        let meaning = checked(meaning, &key)?;
        let _none = terms.mappings.insert(term, meaning);
    }
    Ok(terms)
}

/// Returns where the SSH host key is by default (spec K.3). It belongs to the server and not to one backend.
fn default_host_key(surroundings: &Surroundings) -> Result<Utf8PathBuf, LoadConfigError> {
    match (surroundings.user, &surroundings.home) {
        (User::Root, _) => Ok("/etc/shed/host_key".into()),
        (User::Ordinary, Some(home)) => Ok(home.join(".shed/host_key")),
        (User::Ordinary, None) => Err(LoadConfigError::NoHome { key: "ssh_host_key".to_owned() }),
    }
}

impl Source<'_> {
    pub(super) fn error(
        self,
        location: Option<Location>,
        key: &str,
        problem: impl Into<String>,
    ) -> LoadConfigError {
        let place = match (self.file, location) {
            (Some(file), Some(location)) => format!("{file}:{}:{}", location.line(), location.column()),
            (Some(file), None) => format!("{file} (default)"),
            (None, _) => "default".to_owned(),
        };
        LoadConfigError::Value { place, key: key.to_owned(), problem: problem.into() }
    }

    pub(super) fn bad<T>(self, value: &Spanned<T>, key: &str, problem: impl Into<String>) -> LoadConfigError {
        self.error(Some(value.referenced), key, problem)
    }

    pub(super) fn port(
        self,
        value: Option<&Spanned<i64>>,
        key: &str,
        default: u16,
        lowest: u16,
    ) -> Result<u16, LoadConfigError> {
        let Some(value) = value else { return Ok(default) };
        match u16::try_from(value.value) {
            Ok(port) if port >= lowest => Ok(port),
            Ok(_) | Err(_) => {
                Err(self.bad(value, key, format!("must be between {lowest} and 65535; got {}", value.value)))
            }
        }
    }

    pub(super) fn word<T: Copy>(
        self,
        value: Option<&Spanned<String>>,
        key: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, LoadConfigError> {
        let Some(value) = value else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == value.value) {
            Some(&(_, meaning)) => Ok(Some(meaning)),
            None => {
                let allowed: Vec<&str> = words.iter().map(|&(word, _)| word).collect();
                Err(self.bad(
                    value,
                    key,
                    format!("must be one of {}; got {:?}", allowed.join(", "), value.value),
                ))
            }
        }
    }

    pub(super) fn size<T: TryFrom<i64, Error = SizeError>>(
        self,
        value: Option<&Spanned<i64>>,
        key: &str,
        default: i64,
    ) -> Result<T, LoadConfigError> {
        let number = value.map_or(default, |value| value.value);
        T::try_from(number)
            .map_err(|error| self.error(value.map(|value| value.referenced), key, error.to_string()))
    }

    pub(super) fn timeout(
        self,
        value: Option<&Spanned<String>>,
        key: &str,
    ) -> Result<Option<Duration>, LoadConfigError> {
        let Some(value) = value else { return Ok(None) };
        let parsed: GoDuration = value
            .value
            .parse()
            .map_err(|error| self.bad(value, key, format!("{:?} is not a duration: {error}", value.value)))?;
        if let Some(duration) = parsed.to_duration().filter(|duration| TIMEOUTS.contains(duration)) {
            return Ok(Some(duration));
        }
        let [low, high] = [*TIMEOUTS.start(), *TIMEOUTS.end()].map(GoDuration::saturating_from);
        Err(self.bad(value, key, format!("must be between {low} and {high}; got {}", value.value)))
    }

    pub(super) fn path(
        self,
        value: Option<&Spanned<String>>,
        key: &str,
        surroundings: &Surroundings,
    ) -> Result<Option<Utf8PathBuf>, LoadConfigError> {
        value.map(|value| self.absolute(value, key, surroundings)).transpose()
    }

    /// Reads a path of an image, or a reference to one (spec I.2).
    pub(super) fn image(
        self,
        value: &Spanned<String>,
        key: &str,
        surroundings: &Surroundings,
    ) -> Result<ImageOrigin, LoadConfigError> {
        // No reference begins like a path, so which of the two is meant is never in doubt.
        if value.value.starts_with(['/', '~', '.']) {
            return self.absolute(value, key, surroundings).map(ImageOrigin::Path);
        }
        value.value.parse().map(ImageOrigin::Reference).map_err(|error: ParseReferenceError| {
            let problem = format!("{error}; and it is no absolute path (`~/` is your home directory)");
            self.bad(value, key, problem)
        })
    }

    pub(super) fn absolute(
        self,
        value: &Spanned<String>,
        key: &str,
        surroundings: &Surroundings,
    ) -> Result<Utf8PathBuf, LoadConfigError> {
        let text = value.value.as_str();
        if text.chars().any(char::is_control) {
            return Err(self.bad(value, key, format!("{text:?} has a control character")));
        }
        let path = match (text.strip_prefix('~'), &surroundings.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                home.join(rest.trim_start_matches('/'))
            }
            _ => Utf8PathBuf::from(text),
        };
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(self.bad(
                value,
                key,
                format!("{text:?} is not an absolute path (`~/` is your home directory)"),
            ))
        }
    }
}
