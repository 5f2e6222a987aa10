//! From an OCI archive to an ext4 that boots: `shed image build --from` against what others need for it: `skopeo copy`,
//! `umoci unpack` and `mke2fs -d`, one after the other.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use vm_tests::{OciTools, Stage};

use crate::report::Report;

/// Most of the others' time that ours may take.
const TIME: f64 = 0.7;

/// Most memory of all our processes together, in MB.
const MEMORY_MB: f64 = 200.0;

/// Files, content in MiB, and layers of the large image.
const LARGE: [&str; 3] = ["100000", "2048", "20"];

/// The same of the small one.
const SMALL: [&str; 3] = ["10000", "200", "5"];

/// How often each of the two is done; in turns, and the faster one of each counts, since a host that stalls only slows.
const RUNS: u32 = 2;

/// Measures with a large image and a small one.
pub(crate) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    for (name, size) in [("2 GB, 100,000 files, 20 layers", LARGE), ("0.2 GB, 10,000 files, 5 layers", SMALL)]
    {
        let tools = OciTools::in_directory(&stage.dir().join("tools"));
        report.progress(&format!("images: making an archive of {name}"));
        let archive = archive(&tools, &size)?;
        let (mut others, mut ours, mut memory) = (f64::MAX, f64::MAX, 0.0_f64);
        for run in 1..=RUNS {
            report.progress(&format!("images: {name}, {run}/{RUNS}, skopeo, umoci and mke2fs"));
            others = others.min(others_way(&tools, &archive)?);
            report.progress(&format!("images: {name}, {run}/{RUNS}, shed image build"));
            let (seconds, peak) = our_way(stage, &archive)?;
            ours = ours.min(seconds);
            memory = memory.max(peak);
        }
        report.figure(&format!("archive to ext4, {name}: skopeo, umoci, mke2fs"), others, "s");
        report.figure("  shed image build --from", ours, "s");
        report.at_most("  ratio", ours / others, TIME, "x");
        report.at_most("  memory of all its processes", memory, MEMORY_MB, "MB");
        fs::remove_dir_all(tools.dir())?;
    }
    Ok(())
}

fn archive(tools: &OciTools, size: &[&str]) -> anyhow::Result<camino::Utf8PathBuf> {
    tools.run("umoci", &["init", "--layout", "layout"]);
    tools.run("umoci", &["new", "--image", "layout:it"]);
    for layer in tools.layers("large", size) {
        tools.run("umoci", &["raw", "add-layer", "--image", "layout:it", &layer]);
        fs::remove_file(tools.dir().join(layer))?;
    }
    tools.run("skopeo", &["copy", "oci:layout:it", "oci-archive:archive.tar:it"]);
    fs::remove_dir_all(tools.dir().join("layout"))?;
    Ok(tools.dir().join("archive.tar"))
}

/// Returns the seconds that the three programs take together.
fn others_way(tools: &OciTools, archive: &Utf8Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    tools.run("skopeo", &["copy", &format!("oci-archive:{archive}:it"), "oci:copied:it"]);
    tools.run("umoci", &["unpack", "--image", "copied:it", "bundle"]);
    tools.run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", "bundle/rootfs", "disk.ext4", "4G"]);
    let took = begun.elapsed().as_secs_f64();
    for directory in ["copied", "bundle"] {
        fs::remove_dir_all(tools.dir().join(directory))?;
    }
    fs::remove_file(tools.dir().join("disk.ext4"))?;
    Ok(took)
}

/// Returns the seconds that ours takes, and the most memory of its processes in MB.
fn our_way(stage: &Stage, archive: &Utf8Path) -> anyhow::Result<(f64, f64)> {
    let images = stage.dir().join("bench-images");
    fs::create_dir(&images)?;
    let arguments = [
        "image",
        "build",
        "-n",
        "it",
        "--from",
        archive.as_str(),
        "--output-dir",
        images.as_str(),
        "--force",
    ];
    let begun = Instant::now();
    let mut child = stage.cli().command(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let peak = watch_memory(&mut child)?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(child.wait()?.success(), "shed image build failed");
    let image = images.join("it-rootfs.ext4");
    let checked = Command::new("e2fsck").args(["-fn", image.as_str()]).output().context("e2fsck")?;
    ensure!(checked.status.success(), "e2fsck: {}", String::from_utf8_lossy(&checked.stdout));
    fs::remove_dir_all(&images)?;
    Ok((took, peak))
}

/// Adds up the resident memory of a process and its descendants until it ends; returns the highest sum in MB.
fn watch_memory(child: &mut Child) -> anyhow::Result<f64> {
    let mut peak = 0;
    loop {
        let sum: u64 = descendants(child.id()).into_iter().filter_map(resident).sum();
        peak = peak.max(sum);
        if child.try_wait()?.is_some() {
            #[expect(clippy::cast_precision_loss, reason = "a size for people")]
            return Ok(peak as f64 / 1e6);
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "samples are taken at intervals; there is no event to wait for"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Returns a process and all that it and its children have started.
fn descendants(top: u32) -> Vec<u32> {
    let mut found = vec![top];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

fn resident(pid: u32) -> Option<u64> {
    vm_tests::resident_bytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}
