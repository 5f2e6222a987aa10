//! Other people's tools for images, run as their users run them: umoci, skopeo, buildah, and our own scripts in
//! `vm-tests/images`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use crate::{Cli, Finished, run};

/// The scripts.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images");

/// How long a tool may take with gigabytes on a busy host.
const LONG: Duration = Duration::from_secs(900);

/// How many differences between two trees are shown.
const SHOWN: usize = 20;

/// What is in a tree: a description for each name.
pub type Tree = BTreeMap<String, Value>;

/// The tools, with a directory to work in.
#[derive(Debug, Clone)]
pub struct OciTools {
    dir: Utf8PathBuf,
}

impl OciTools {
    /// Makes the directory.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn in_directory(dir: &Utf8Path) -> Self {
        fs::create_dir_all(dir).expect("a directory for the tools");
        Self { dir: dir.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// Runs a tool in the directory until it has succeeded.
    ///
    /// # Panics
    /// When it is not installed, or fails.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.dir);
        let done = run(&mut command, b"", LONG);
        assert_eq!(done.code, 0, "{program} {arguments:?}: {} {}", done.out(), done.err());
        done
    }

    /// Writes layers as `layers.py` has them, and returns their files, bottom layer first.
    ///
    /// # Panics
    /// When Python fails.
    #[track_caller]
    #[must_use]
    pub fn layers(&self, what: &str, more: &[&str]) -> Vec<String> {
        let script = format!("{SCRIPTS}/layers.py");
        let arguments: Vec<&str> =
            [script.as_str(), what, "."].into_iter().chain(more.iter().copied()).collect();
        self.run("python3", &arguments).out().lines().map(str::to_owned).collect()
    }

    /// Runs buildah, with its storage in the directory.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn buildah(&self, arguments: &[&str]) -> Finished {
        let (root, runroot) = (self.dir.join("buildah"), self.dir.join("buildah-run"));
        let storage = ["--root", root.as_str(), "--runroot", runroot.as_str(), "--storage-driver", "vfs"];
        let arguments: Vec<&str> = storage.into_iter().chain(arguments.iter().copied()).collect();
        self.run("buildah", &arguments)
    }

    /// Sends an image of a layout in the directory to a registry on loopback.
    ///
    /// # Panics
    /// When skopeo fails.
    #[track_caller]
    pub fn push(&self, from: &str, reference: &str) {
        self.run("skopeo", &["copy", "--dest-tls-verify=false", from, &format!("docker://{reference}")]);
    }

    /// Unpacks an image of a layout with umoci and returns what it has in these directories; all when none is named.
    ///
    /// # Panics
    /// When a tool fails.
    #[track_caller]
    #[must_use]
    pub fn unpacked(&self, image: &str, directories: &[&str]) -> Tree {
        let bundle = self.dir.join("bundle");
        self.run("umoci", &["unpack", "--image", image, "bundle"]);
        let (script, root) = (format!("{SCRIPTS}/tree.py"), bundle.join("rootfs"));
        let arguments: Vec<&str> =
            [script.as_str(), root.as_str()].into_iter().chain(directories.iter().copied()).collect();
        let tree = parse(&self.run("python3", &arguments));
        fs::remove_dir_all(&bundle).expect("what umoci has made can be removed");
        tree
    }
}

/// Returns what a shed has in these directories, seen by its root.
///
/// # Panics
/// When it has no Python, or that fails.
#[track_caller]
#[must_use]
pub fn tree_in_shed(cli: &Cli, shed: &str, directories: &[&str]) -> Tree {
    let script = fs::read(format!("{SCRIPTS}/tree.py")).expect("our own script");
    let fixed = ["exec", "-u", "root", shed, "--", "python3", "-", "/"];
    let arguments: Vec<&str> = fixed.into_iter().chain(directories.iter().copied()).collect();
    parse(&run(&mut cli.command(&arguments), &script, LONG).ok())
}

#[track_caller]
fn parse(listing: &Finished) -> Tree {
    let lines = std::str::from_utf8(&listing.stdout).expect("the script writes ASCII").lines();
    lines
        .map(|line| {
            let entry: Value = serde_json::from_str(line).expect("the script writes JSON");
            (entry["path"].to_string(), entry)
        })
        .collect()
}

/// Checks that two trees are the same.
///
/// # Panics
/// With what differs, or when there is nothing to compare.
#[track_caller]
pub fn assert_same_tree(found: &Tree, expected: &Tree) {
    assert!(expected.len() > 1, "there is nothing to compare with");
    let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let different: Vec<String> = names
        .into_iter()
        .filter(|name| found.get(*name) != expected.get(*name))
        .map(|name| match (found.get(name), expected.get(name)) {
            (Some(found), Some(expected)) => format!("{name} is {found}, not {expected}"),
            (Some(_), None) => format!("{name} should not be there"),
            (None, _) => format!("{name} is missing"),
        })
        .collect();
    let shown = different.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(different.is_empty(), "{} of {} names differ:\n  {shown}", different.len(), expected.len());
}
