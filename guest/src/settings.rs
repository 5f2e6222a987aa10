//! What this machine's package managers are told, for the time of a build: the registries of pip and npm, proxies,
//! certificates, name servers. Whoever can install packages here can build an image here.
//!
//! It lies in [`DIRECTORY`] of the new root while the recipe's script runs, and in no layer: what is below /run is
//! removed, and [`Settings::find_secret`] finds what a package manager may have written elsewhere.

use std::{
    env, fs,
    io::{self, Read},
};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::tool::quoted;

/// Where it lies in the root while something is installed; mmdebstrap empties /run at the end of each build.
pub(crate) const DIRECTORY: &str = "/run/shed-build";

/// Variables that name proxies (curl(1), apt, pip and npm know them in either case).
const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];

/// Settings of pip that say where packages come from and how long to wait for them (pip's documentation, "Configuration").
const PIP: [&str; 8] = [
    "index-url",
    "extra-index-url",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
    "no-index",
];

/// Settings of npm of that kind (npm's documentation, "config"), besides those of a scope or of one registry.
const NPM: [&str; 8] = [
    "registry",
    "proxy",
    "https-proxy",
    "noproxy",
    "strict-ssl",
    "fetch-timeout",
    "fetch-retries",
    "maxsockets",
];

/// Ends the names of npm's settings that are secrets.
const NPM_SECRETS: [&str; 3] = [":_authToken", ":_auth", ":_password"];

/// Shortest secret that is looked for, in bytes; a shorter one would be found by chance.
const MIN_SECRET: usize = 6;

/// How much of a file is searched at once, in bytes.
const PIECE: usize = 1 << 20;

/// What this machine's package managers are told.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    npm: Vec<(String, String)>,
    pip: Vec<(String, String)>,
    proxies: Vec<(String, String)>,
    certificates: Option<Vec<u8>>,
    name_servers: Option<Vec<u8>>,
}

impl Settings {
    /// Reads them. What is not there is not set.
    pub(crate) fn of_this_machine() -> Self {
        let home = env::var("HOME").map(Utf8PathBuf::from).unwrap_or_default();
        let mut settings = Self::default();

        // The later ones win, as they do for npm itself: global file, user's file, environment.
        let user = variable("npm_config_userconfig").map_or_else(|| home.join(".npmrc"), Utf8PathBuf::from);
        let global = ["/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc"].map(Utf8PathBuf::from);
        for path in global.into_iter().chain([user]) {
            settings.npm.extend(npm_settings(&fs::read_to_string(path).unwrap_or_default()));
        }
        let global = Utf8PathBuf::from("/etc/pip.conf");
        let own = env::var("PIP_CONFIG_FILE").map(Utf8PathBuf::from).ok();
        for path in
            [global, home.join(".pip/pip.conf"), home.join(".config/pip/pip.conf")].into_iter().chain(own)
        {
            settings.pip.extend(pip_settings(&fs::read_to_string(path).unwrap_or_default()));
        }
        for (name, value) in env::vars() {
            let lower = name.to_ascii_lowercase();
            if PROXIES.contains(&lower.as_str()) {
                settings.proxies.push((name, value));
            } else if let Some(key) = lower.strip_prefix("npm_config_") {
                // Names of registries keep their case and dots, which only the real name has.
                let whole = &name["npm_config_".len()..];
                let key =
                    if whole.starts_with(['@', '/']) { whole.to_owned() } else { key.replace('_', "-") };
                if is_npm_setting(&key) {
                    settings.npm.push((key, value));
                }
            } else if let Some(key) = lower.strip_prefix("pip_") {
                let key = key.replace('_', "-");
                if PIP.contains(&key.as_str()) {
                    settings.pip.push((key, value));
                }
            }
        }
        let certificates =
            variable("SSL_CERT_FILE").unwrap_or("/etc/ssl/certs/ca-certificates.crt".to_owned());
        settings.certificates = fs::read(certificates).ok();
        settings.name_servers = fs::read("/etc/resolv.conf").ok();
        settings
    }

    /// Writes them below `root`, as the recipe's script will find them. `env` there is to be read by a shell.
    pub(crate) fn stage(&self, root: &Utf8Path) -> Result<()> {
        let dir = root.join(DIRECTORY.trim_start_matches('/'));
        fs::create_dir_all(dir.join("home")).with_context(|| format!("cannot create {dir}"))?;
        let write = |path: Utf8PathBuf, content: &[u8]| {
            fs::write(&path, content).with_context(|| format!("cannot write {path}"))
        };
        let mut env = vec![
            // Caches and what else a package manager leaves at home go away with it.
            ("HOME".to_owned(), format!("{DIRECTORY}/home")),
            ("NPM_CONFIG_USERCONFIG".to_owned(), format!("{DIRECTORY}/npmrc")),
            ("PIP_CONFIG_FILE".to_owned(), format!("{DIRECTORY}/pip.conf")),
        ];
        if let Some(certificates) = &self.certificates {
            write(dir.join("certificates.pem"), certificates)?;
            let names = [
                "SSL_CERT_FILE",
                "CURL_CA_BUNDLE",
                "REQUESTS_CA_BUNDLE",
                "PIP_CERT",
                "NODE_EXTRA_CA_CERTS",
                "npm_config_cafile",
            ];
            env.extend(names.map(|name| (name.to_owned(), format!("{DIRECTORY}/certificates.pem"))));
        }
        env.extend(self.proxies.iter().cloned());
        let env: String =
            env.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
        write(dir.join("env"), env.as_bytes())?;
        let npm: String = self.npm.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        write(dir.join("npmrc"), npm.as_bytes())?;
        let pip: std::collections::BTreeMap<_, _> =
            self.pip.iter().map(|(key, value)| (key, value)).collect();
        let pip: String = pip.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        write(dir.join("pip.conf"), format!("[global]\n{pip}").as_bytes())?;
        if let Some(servers) = &self.name_servers {
            // The root's resolv.conf is a link to where systemd-resolved has its own.
            let resolve = root.join("run/systemd/resolve");
            fs::create_dir_all(&resolve).with_context(|| format!("cannot create {resolve}"))?;
            write(resolve.join("stub-resolv.conf"), servers)?;
        }
        Ok(())
    }

    /// Returns what must be in no image: tokens, passwords, and users with passwords in addresses.
    fn secrets(&self) -> Vec<&str> {
        let all = self.npm.iter().chain(&self.pip).chain(&self.proxies);
        let mut secrets: Vec<&str> = Vec::new();
        for (key, value) in all {
            if NPM_SECRETS.iter().any(|end| key.ends_with(end)) {
                secrets.push(value);
            }
            for address in value.split_whitespace() {
                let authority = address.split_once("://").map_or(address, |(_, rest)| rest);
                let authority = authority.split('/').next().unwrap_or_default();
                if let Some((user, _host)) = authority.rsplit_once('@') {
                    secrets.push(user);
                }
            }
        }
        secrets.retain(|secret| secret.len() >= MIN_SECRET);
        secrets
    }

    /// Searches a layer for a secret. Returns whether there is one; which one is nobody's business.
    pub(crate) fn find_secret(&self, mut layer: impl Read) -> io::Result<bool> {
        let secrets = self.secrets();
        let longest = secrets.iter().map(|secret| secret.len()).max().unwrap_or(0);
        if longest == 0 {
            return Ok(false);
        }
        let mut buffer = vec![0; PIECE + longest];
        let mut kept = 0;
        loop {
            let count = layer.read(&mut buffer[kept..])?;
            if count == 0 {
                return Ok(false);
            }
            let filled = &buffer[..kept + count];
            if secrets
                .iter()
                .any(|secret| filled.windows(secret.len()).any(|window| window == secret.as_bytes()))
            {
                return Ok(true);
            }
            // One may begin in this piece and end in the next.
            let from = filled.len().saturating_sub(longest - 1);
            let end = filled.len();
            buffer.copy_within(from..end, 0);
            kept = end - from;
        }
    }
}

fn variable(name: &str) -> Option<String> {
    [name.to_owned(), name.to_ascii_uppercase()].iter().find_map(|name| env::var(name).ok())
}

fn is_npm_setting(key: &str) -> bool {
    // `@scope:registry`, `//host/path/:_authToken`
    NPM.contains(&key) || key.starts_with("//") || (key.starts_with('@') && key.ends_with(":registry"))
}

/// Takes the settings that count here from an npmrc; `${NAME}` in it is a variable.
fn npm_settings(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(key, value)| (key.trim(), value.trim().trim_matches('"')));
    pairs
        .filter(|(key, _)| is_npm_setting(key))
        .map(|(key, value)| (key.to_owned(), expanded(value)))
        .collect()
}

fn expanded(value: &str) -> String {
    let mut parts = value.split("${");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}') {
            Some((name, rest)) => {
                text.push_str(&env::var(name).unwrap_or_default());
                text.push_str(rest);
            }
            None => text.push_str(part),
        }
    }
    text
}

/// Takes the settings that count here from a pip.conf, whichever section they are in.
fn pip_settings(text: &str) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut wanted = false;
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if line.starts_with([' ', '\t']) {
            // A value goes on in indented lines.
            if let Some((_, value)) = settings.last_mut().filter(|_| wanted) {
                value.push(' ');
                value.push_str(line.trim());
            }
            continue;
        }
        let Some((key, value)) = line.split_once(['=', ':']) else { continue };
        let key = key.trim().replace('_', "-");
        wanted = PIP.contains(&key.as_str());
        if wanted {
            settings.push((key, value.trim().to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(settings: &[(String, String)]) -> Vec<(&str, &str)> {
        settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    #[test]
    fn an_npmrc_gives_registries_and_nothing_of_this_machine() {
        let text = "registry=https://npm.example/\n; x\ncafile=/etc/x.pem\n@team:registry = https://team.example\n\
                    //team.example/:_authToken=\"abc=def\"\nprefix=/opt\n";
        let settings = npm_settings(text);
        assert_eq!(
            pairs(&settings),
            [
                ("registry", "https://npm.example/"),
                ("@team:registry", "https://team.example"),
                ("//team.example/:_authToken", "abc=def"),
            ]
        );
    }

    #[test]
    fn a_pip_conf_gives_indexes_and_nothing_of_this_machine() {
        let text = "[global]\nindex_url = https://a.example/simple\ncert = /x.pem\n[install]\nextra-index-url =\n    \
                    https://b.example\n    https://c.example\nuser = yes\n    no\n";
        let settings = pip_settings(text);
        assert_eq!(
            pairs(&settings),
            [
                ("index-url", "https://a.example/simple"),
                ("extra-index-url", " https://b.example https://c.example"),
            ]
        );
    }

    #[test]
    fn a_secret_is_found_wherever_it_lies_in_a_layer() {
        let settings = Settings {
            npm: vec![("//team.example/:_authToken".to_owned(), "token-of-mine".to_owned())],
            proxies: vec![("https_proxy".to_owned(), "http://me:my-password@proxy.example:3128".to_owned())],
            ..Settings::default()
        };
        assert_eq!(settings.secrets(), ["token-of-mine", "me:my-password"]);
        for at in [0, PIECE - 5, PIECE + 1, 2 * PIECE + 3] {
            let mut layer = vec![b'x'; 3 * PIECE];
            assert!(!settings.find_secret(layer.as_slice()).unwrap());
            layer[at..at + 13].copy_from_slice(b"token-of-mine");
            assert!(settings.find_secret(layer.as_slice()).unwrap(), "at {at}");
        }
    }

    #[test]
    fn what_is_staged_is_in_the_directory_that_is_removed() {
        let guard = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(guard.path()).unwrap();
        let settings = Settings {
            npm: vec![("registry".to_owned(), "https://npm.example/".to_owned())],
            proxies: vec![("https_proxy".to_owned(), "it's".to_owned())],
            name_servers: Some(b"nameserver 192.0.2.1\n".to_vec()),
            ..Settings::default()
        };
        settings.stage(root).unwrap();
        let top: Vec<String> =
            root.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
        assert_eq!(top, ["run"]);
        let env = fs::read_to_string(root.join("run/shed-build/env")).unwrap();
        assert!(env.contains("export https_proxy='it'\\''s'\n"), "{env}");
        assert_eq!(
            fs::read_to_string(root.join("run/shed-build/npmrc")).unwrap(),
            "registry = https://npm.example/\n"
        );
    }
}
