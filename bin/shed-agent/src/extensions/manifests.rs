//! Which namespace has which unit in this guest (spec J.5): manifests of the image, then Shed's own.
//!
//! An image may be anybody's. A manifest that cannot be read or understood is left out with a warning, and none is waited
//! for.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use shed_types::Namespace;

/// Directories with manifests below the root, the strongest first.
const DIRECTORIES: [&str; 2] = ["etc/shed-extensions.d", "run/shed/extensions.d"];

/// Longest manifest in bytes.
const MAX_FILE: u64 = 64 << 10;

/// Most manifests of a directory.
const MAX_FILES: usize = 256;

/// Longest name of a unit (systemd.unit(5)).
const MAX_UNIT: usize = 255;

/// The agent's own unit, which no manifest may have stopped.
const AGENT: &str = "shed-agent.service";

/// Kinds of units that can be what an extension needs.
const KINDS: [&str; 5] = [".service", ".socket", ".target", ".path", ".timer"];

/// The name of a unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Unit(String);

/// Says that a text is no name of a unit that can be enabled.
#[derive(Debug, thiserror::Error)]
#[error("systemd_unit is no name of a service, socket, target, path or timer that an extension can have")]
pub(super) struct BadUnit;

impl TryFrom<String> for Unit {
    type Error = BadUnit;

    fn try_from(text: String) -> Result<Self, BadUnit> {
        // As systemctl takes it.
        let name = if text.contains('.') { text } else { format!("{text}.service") };
        // The characters of systemd.unit(5), but for the backslash: what it escapes is a path, and those are no services.
        let good = |c: u8| c.is_ascii_alphanumeric() || b":_.@-".contains(&c);
        let kind = KINDS.iter().find_map(|kind| name.strip_suffix(kind));
        let fine = kind.is_some_and(|stem| !stem.is_empty() && !stem.starts_with(['-', '.']));
        if fine && name.bytes().all(good) && name.len() <= MAX_UNIT && name != AGENT {
            Ok(Self(name))
        } else {
            Err(BadUnit)
        }
    }
}

impl Unit {
    /// Returns the name with its kind.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest says. Keys that are not known mean nothing.
#[derive(Debug, Deserialize)]
struct Manifest {
    namespace: Namespace,
    #[serde(default)]
    systemd_unit: Option<Unit>,
}

/// Extensions that this guest has.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// The unit of each namespace, when it has one.
    pub(super) units: BTreeMap<Namespace, Option<Unit>>,
    /// What was wrong, for the log.
    pub(super) warnings: Vec<String>,
}

/// Reads the manifests below `root`, which is `/` but for tests.
pub(super) fn read(root: &Path) -> Manifests {
    let mut found = Manifests::default();
    for directory in DIRECTORIES {
        for path in files(&root.join(directory), &mut found.warnings) {
            let problem = match read_file(&path).and_then(|text| parse(&text)) {
                Ok(manifest) if found.units.contains_key(&manifest.namespace) => {
                    format!("another manifest has the namespace {} already", manifest.namespace)
                }
                Ok(manifest) => {
                    found.units.insert(manifest.namespace, manifest.systemd_unit);
                    continue;
                }
                Err(error) => error,
            };
            found.warnings.push(format!("{} is left out: {problem}", path.display()));
        }
    }
    found
}

fn files(directory: &Path, warnings: &mut Vec<String>) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml");
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(is_yaml).collect();
    paths.sort();
    if paths.len() > MAX_FILES {
        warnings.push(format!("{} has more than {MAX_FILES} manifests", directory.display()));
        paths.truncate(MAX_FILES);
    }
    paths
}

fn read_file(path: &Path) -> Result<String, String> {
    let read = || {
        // A FIFO must not be waited for.
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(io::Error::other("it is too long"));
        }
        Ok(text)
    };
    read().map_err(|error| error.to_string())
}

fn parse(text: &str) -> Result<Manifest, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        // The lines behind the first quote the file.
        let text = error.without_snippet().to_string();
        text.lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("it is no YAML")
            .chars()
            .take(200)
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shed_testkit::fuzz;

    use super::*;

    fn unit(text: &str) -> Option<String> {
        Unit::try_from(text.to_owned()).ok().map(|unit| unit.0)
    }

    #[test]
    fn names_of_units_are_taken_and_options_and_the_agents_are_not() {
        assert_eq!(unit("a-b@c:1.service").as_deref(), Some("a-b@c:1.service"));
        assert_eq!(unit("a").as_deref(), Some("a.service"));
        for bad in [
            "",
            "--root=x",
            "-a.service",
            "a/b.service",
            "a b",
            ".service",
            "shed-agent",
            "a.mount",
            "a\n.service",
            "é",
        ] {
            assert_eq!(unit(bad), None, "{bad:?}");
        }
        assert_eq!(unit(&"x".repeat(300)), None);
    }

    #[test]
    fn the_images_win_and_what_is_broken_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let [image, own] = DIRECTORIES.map(|directory| root.path().join(directory));
        fs::create_dir_all(&image).unwrap();
        fs::create_dir_all(&own).unwrap();
        let put = |path: &Path, text: &str| fs::write(path, text).unwrap();
        put(&image.join("a.yaml"), "namespace: mine\nsystemd_unit: mine\nmore: [1]\n");
        put(&image.join("b.yml"), "namespace: ssh-agent\nsystemd_unit: their.service\n");
        put(&image.join("c.yaml"), "namespace: mine\nsystemd_unit: second.service\n");
        put(&image.join("d.yaml"), "namespace: system:x\n");
        put(&image.join("e.yaml"), "namespace: e\nsystemd_unit: --now\n");
        put(&image.join("f.yaml"), "{{{");
        put(&image.join("g.yaml"), "");
        put(&image.join("h.yaml"), &"#".repeat(70_000));
        put(&image.join("i.txt"), "namespace: i\n");
        fs::create_dir(image.join("j.yaml")).unwrap();
        fs::write(image.join("k.yaml"), [0xff, 0xfe]).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            image.join("l.yaml"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink("nowhere", image.join("m.yaml")).unwrap();
        put(&own.join("ssh-agent.yaml"), "namespace: ssh-agent\nsystemd_unit: ours.service\n");
        put(&own.join("docker.yaml"), "namespace: docker-credentials\ndescription: x\n");
        let found = read(root.path());
        let units: Vec<_> =
            found.units.iter().map(|(n, unit)| (n.as_str(), unit.as_ref().map(Unit::as_str))).collect();
        let expected = [
            ("docker-credentials", None),
            ("mine", Some("mine.service")),
            ("ssh-agent", Some("their.service")),
        ];
        assert_eq!(units, expected);
        assert_eq!(found.warnings.len(), 11, "{:#?}", found.warnings);
        assert!(found.warnings.iter().all(|warning| warning.len() < 500));
        assert!(read(Path::new("/does/not/exist")).units.is_empty());
    }

    #[test]
    fn shed_s_own_are_understood() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest/extensions.d");
        let mut seen = Vec::new();
        for path in files(&own, &mut seen) {
            let manifest = parse(&read_file(&path).unwrap()).unwrap();
            assert_eq!(path.file_stem().unwrap().to_str().unwrap(), manifest.namespace.as_str());
            if let Some(unit) = manifest.systemd_unit {
                assert!(own.join("../units").join(unit.as_str()).exists(), "{unit}");
            }
            seen.push(manifest.namespace.to_string());
        }
        assert_eq!(seen, ["aws-credentials", "docker-credentials", "ssh-agent"]);
    }

    #[test]
    fn fuzz_extension_manifest() {
        let line = "(namespace|systemd_unit|description|x)?: ?[&*!|>\\[{\"']?\\PC{0,20}";
        fuzz("manifests of extensions", &prop::collection::vec(line, 0..8), |lines| {
            if let Ok(manifest) = parse(&lines.join("\n")) {
                let unit = manifest.systemd_unit.map(|unit| unit.0).unwrap_or_default();
                assert!(!unit.starts_with('-') && !unit.contains(['/', '\n', ' ', '\0']));
            }
        });
    }
}
