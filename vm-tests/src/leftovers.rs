//! Looks for what must not be there: machines, sockets, directories and temporary files without a shed.

use std::{collections::BTreeSet, fs};

use camino::Utf8Path;
use shed_types::{BackendKind, GuestPort};

use crate::{L1, SHORT, Stage, wait_for};

/// Files that a shed's directory may hold.
const SHED_FILES: [&str; 8] = [
    "metadata.json",
    "image.ext4",
    "rootfs.ext4",
    "console.log",
    "vmm.log",
    "firecracker.json",
    "firecracker-metrics.json",
    "vmm.share-workspace",
];

/// What the programs are called that run machines.
const VMMS: [&str; 3] = ["qemu-system", "firecracker", STAND_IN];

/// What is vfkit in tests. Its QEMU is a part of it.
const STAND_IN: &str = "vfkit-stand-in";

/// What the jailer adds to Firecracker's command line.
const JAILED: &str = " --start-time-us";

/// What must be there of one shed, and all that may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect<'a> {
    /// A directory, a machine and its sockets.
    Running(&'a str),
    /// A directory, and nothing that runs.
    Stopped(&'a str),
}

impl<'a> Expect<'a> {
    const fn name(&self) -> &'a str {
        match self {
            Self::Running(name) | Self::Stopped(name) => name,
        }
    }
}

/// A process that runs a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmProcess {
    /// Its process id.
    pub pid: u32,
    /// Its command line, words joined with spaces.
    pub command_line: String,
}

impl VmmProcess {
    /// Whether this is the machine of the shed with this directory: its files are there, or its launch is on record there.
    fn is_of(&self, directory: &Utf8Path) -> bool {
        if !self.is_jailed() {
            return self.command_line.contains(&format!("{directory}/"));
        }
        let record = fs::read(directory.join("metadata.json")).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
        let launch = record["vm"]["launch_id"].as_str();
        launch.is_some_and(|launch| self.command_line.contains(&format!(" --id {launch} ")))
    }

    /// Whether it runs in a jail, where paths begin with its own root. The jailer tells when it began.
    fn is_jailed(&self) -> bool {
        self.command_line.contains(JAILED)
    }
}

/// Finds the processes of machines whose files are below `dir`.
#[must_use]
pub fn vmm_processes(dir: &Utf8Path) -> Vec<VmmProcess> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let command_line = fs::read(entry.path().join("cmdline")).ok()?;
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            let program = command_line.split(' ').next()?.rsplit('/').next()?.to_owned();
            // In an L1 all jails are ours.
            let ours = command_line.contains(dir.as_str()) || L1::is_here() && command_line.contains(JAILED);
            let is_vmm =
                VMMS.iter().any(|vmm| program.starts_with(vmm)) && !is_part_of_stand_in(&entry.path());
            (ours && is_vmm).then_some(VmmProcess { pid, command_line })
        })
        .collect()
}

/// Whether the parent of a process, which `/proc` has here, is the stand-in for vfkit.
fn is_part_of_stand_in(process: &std::path::Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    let name = parent.and_then(|parent| fs::read_link(format!("/proc/{parent}/exe")).ok());
    name.is_some_and(|path| path.file_name().is_some_and(|name| name == STAND_IN))
}

/// Finds the processes that serve directories to the machines whose sockets are in `sockets`.
fn serving_processes(sockets: &Utf8Path) -> Vec<VmmProcess> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mark = format!("shed-share:{sockets}/");
    let mut found: Vec<VmmProcess> = entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let command_line = fs::read(entry.path().join("cmdline")).ok()?;
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            command_line.starts_with(&mark).then_some(VmmProcess { pid, command_line })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Returns the process of one shed's machine.
///
/// # Panics
/// When there is not exactly one.
#[track_caller]
#[must_use]
pub fn machine_of(stage: &Stage, shed: &str) -> VmmProcess {
    let directory = stage.instance_dir().join(shed);
    let mut found = vmm_processes(stage.dir());
    found.retain(|process| process.is_of(&directory));
    assert_eq!(found.len(), 1, "one machine of {shed}: {found:?}");
    found.remove(0)
}

impl Stage {
    /// Finds the processes that serve directories to machines of this stage.
    #[must_use]
    pub fn serving(&self) -> Vec<VmmProcess> {
        serving_processes(self.socket_dir())
    }

    /// Checks that there is what belongs to `sheds` and nothing else.
    ///
    /// The server may still be removing something at the moment, so a mismatch has a few seconds to go away.
    ///
    /// # Panics
    /// With all that is missing or left over.
    #[track_caller]
    pub fn assert_only(&self, sheds: &[Expect<'_>]) {
        let begun = std::time::Instant::now();
        let problems = wait_for("the leftovers to go", SHORT * 2, || {
            let problems = self.mismatches(sheds);
            (problems.is_empty() || begun.elapsed() > SHORT / 6).then_some(problems)
        });
        assert!(problems.is_empty(), "expected only {sheds:?}, but:\n  {}", problems.join("\n  "));
    }

    fn mismatches(&self, sheds: &[Expect<'_>]) -> Vec<String> {
        let mut problems = Vec::new();
        let names: BTreeSet<String> = sheds.iter().map(|shed| shed.name().to_owned()).collect();
        let running: BTreeSet<&str> = sheds
            .iter()
            .filter_map(|shed| match shed {
                Expect::Running(name) => Some(*name),
                Expect::Stopped(_) => None,
            })
            .collect();
        compare(&mut problems, "directory", &names, &children(self.instance_dir(), &[".lock"]));
        for name in &names {
            let files = children(&self.instance_dir().join(name), &SHED_FILES);
            compare(&mut problems, "file", &BTreeSet::new(), &files);
        }
        let endings: Vec<String> = match self.backend() {
            BackendKind::Qemu => [".link", ".qmp"].map(str::to_owned).into(),
            BackendKind::Vz => {
                let ports = GuestPort::ALL.map(|port| format!("-{}.sock", port.number()));
                ports.into_iter().chain(["-words.sock", "-rest.sock"].map(str::to_owned)).collect()
            }
            BackendKind::Firecracker => [".api", ".vsock", ".vsock_1025"].map(str::to_owned).into(),
        };
        let machines = vmm_processes(self.dir());
        let is_jailed = |name: &&&str| {
            let directory = self.instance_dir().join(name);
            machines.iter().any(|machine| machine.is_jailed() && machine.is_of(&directory))
        };
        let (jailed, open): (Vec<&str>, Vec<&str>) = running.iter().partition(is_jailed);
        // A jail has its sockets in it.
        let jails = self.dir().join("jails").read_dir_utf8().into_iter().flatten().flatten();
        let jails = jails.flat_map(|server| children(server.path(), &[])).collect();
        compare(&mut problems, "jail", &jailed.iter().map(ToString::to_string).collect(), &jails);
        let sockets: BTreeSet<String> = open
            .iter()
            .flat_map(|name| endings.iter().map(move |ending| format!("{name}{ending}")))
            .collect();
        compare(&mut problems, "socket", &sockets, &children(self.socket_dir(), &[]));
        compare(&mut problems, "temporary file", &BTreeSet::new(), &children(&self.tmp_dir(), &[]));
        let cached = children(&self.images_dir().join(".cache"), &[]);
        let images = children(self.images_dir(), &[]).into_iter().chain(cached);
        let half_made = images.filter(|name| name.contains("tmp")).collect();
        compare(&mut problems, "half-made image", &BTreeSet::new(), &half_made);

        for name in &running {
            let directory = self.instance_dir().join(name);
            let count = machines.iter().filter(|machine| machine.is_of(&directory)).count();
            if count != 1 {
                problems.push(format!("{name} has {count} machines"));
            }
        }
        let mut serving = self.serving();
        serving.retain(|process| {
            !running.iter().any(|name| process.command_line.contains(&format!("/{name}:")))
        });
        if !serving.is_empty() {
            problems.push(format!("those who serve directories: {serving:?}"));
        }
        if machines.len() > running.len() {
            problems.push(format!("machines: {machines:?}"));
        }
        problems
    }
}

fn compare(problems: &mut Vec<String>, what: &str, expected: &BTreeSet<String>, found: &BTreeSet<String>) {
    problems.extend(expected.difference(found).map(|name| format!("the {what} {name} is missing")));
    problems.extend(found.difference(expected).map(|name| format!("the {what} {name} is left over")));
}

/// Returns the names in a directory, without `ignored` ones; a directory that is not there has none.
fn children(dir: &Utf8Path, ignored: &[&str]) -> BTreeSet<String> {
    let entries = dir.read_dir_utf8().into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| !ignored.contains(&name.as_str()))
        .collect()
}
