//! What a create does itself before its machine runs, and what a new shed takes on the disk, with a small image and a
//! large one.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use serde_json::{Value, json};
use vm_tests::{Server, Stage};

use crate::{report::Report, stats::Times};

/// Most of a create's own work, in milliseconds.
const OWN_WORK_MS: f64 = 150.0;

/// Most that a new shed may take on the disk, in MB.
const DISK_MB: f64 = 10.0;

/// Real data of the large image, in MiB.
const LARGE_MIB: usize = 2048;

const SHED: &str = "bench-create";

/// Measures up to `runs` creates from each image. They are cancelled when the machine runs: nothing later counts.
pub(crate) fn measure(stage: &Stage, runs: u32, report: &mut Report) -> anyhow::Result<()> {
    report.progress("create: making an image with 2 GiB of data");
    large_image(stage)?;
    let server = stage.serve();
    // The template of the empty disk is made once a server's life, by the first create.
    report.progress("create: the first, which makes the template");
    let _first = own_work(&server, "base")?;
    let (mut small, mut large) = (Times::default(), Times::default());
    for run in 1..=runs {
        small.push(own_work(&server, "base")?);
        large.push(own_work(&server, "large")?);
        report.progress(&format!("create {run}/{runs}"));
    }
    report.times("create until the machine runs, image of 0.3 GB", &small);
    report.times("create until the machine runs, image of 2 GB more", &large);
    report.at_most("  the larger median", small.p50().max(large.p50()), OWN_WORK_MS, "ms");

    let cli = stage.cli();
    let mut most: f64 = 0.0;
    for image in ["base", "large"] {
        let mut events = server.http().create_events(&json!({ "name": SHED, "image": image }));
        events.wait_for_phase("boot");
        let taken = taken_mb(&stage.instance_dir().join(SHED))?;
        report.figure(&format!("disk of a new shed of 20 GB, image {image}"), taken, "MB");
        most = most.max(taken);
        drop(events);
        wait_until_gone(&server);
    }
    report.at_most("  the larger", most, DISK_MB, "MB");
    cli.create(SHED, &[]);
    report.figure(
        "disk of the same shed after its first boot",
        taken_mb(&stage.instance_dir().join(SHED))?,
        "MB",
    );
    cli.delete(SHED);
    Ok(())
}

/// Begins a create and returns how long it took to the phase in which its machine runs, by the server's own clock.
fn own_work(server: &Server, image: &str) -> anyhow::Result<Duration> {
    let mut events = server.http().create_events(&json!({ "name": SHED, "image": image }));
    let elapsed = loop {
        let event = events.try_next()?.context("the events end before the machine runs")?;
        ensure!(event.name == "progress", "the create failed: {}", event.data);
        if event.data["phase"] == "boot" {
            break event.data["elapsed_ms"].as_u64();
        }
    };
    drop(events);
    wait_until_gone(server);
    elapsed.map(Duration::from_millis).context("the event has no elapsed_ms")
}

/// A client that goes away cancels its create.
fn wait_until_gone(server: &Server) {
    vm_tests::wait_for("the cancelled create to be undone", vm_tests::SHORT, || {
        let list: Value = server.http().get("/api/sheds").json();
        (list["sheds"] == json!([])).then_some(())
    });
}

/// What a shed's directory takes on the disk in MB, without the image, which it shares.
fn taken_mb(dir: &Utf8Path) -> anyhow::Result<f64> {
    let mut blocks = fs::metadata(dir)?.blocks();
    for entry in dir.read_dir_utf8()? {
        let metadata = entry?.metadata()?;
        if metadata.nlink() == 1 {
            blocks += metadata.blocks();
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a size for people")]
    Ok(blocks as f64 * 512.0 / 1e6)
}

/// Copies the base image and puts a large file into it.
fn large_image(stage: &Stage) -> anyhow::Result<()> {
    let image = stage.images_dir().join("large-rootfs.ext4");
    let copied =
        Command::new("cp").arg("--sparse=always").arg(stage.parts().base_image()).arg(&image).status()?;
    ensure!(copied.success(), "cannot copy the base image");
    // The file system itself need not know of it: what a create must not look at is the length and the blocks.
    let mut file = File::options().append(true).open(&image)?;
    let block = vec![0x5a; 1 << 20];
    for _ in 0..LARGE_MIB {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(())
}
