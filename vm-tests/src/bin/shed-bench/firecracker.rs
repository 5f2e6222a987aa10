//! A shed's boot on the real Firecracker, in turns with a bare Firecracker that has the same kernel, initramfs and disks.
//!
//! Both run in an L1, which is a machine with KVM: this program boots it and runs itself there.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use vm_tests::{BOOT, L1, Stage, wait_for};

use crate::{report::Report, stats::Times};

/// Most that a boot may take, as a multiple of a bare Firecracker to the same readiness.
const TARGET: f64 = 1.15;

const SHED: &str = "bench-boot";

/// What the agent writes to the console when it takes connections.
const READY: &str = "shed-agent: ready";

/// Boots an L1, and measures there. Says why, where that is not possible.
pub(crate) fn in_an_l1(runs: u32, report: &mut Report) {
    let Some(l1) = L1::boot() else { return };
    report.progress("firecracker: measuring in a machine with KVM");
    let deadline = BOOT * (runs + 2) * 2;
    l1.run_itself(&format!("firecracker --runs {runs}"), deadline);
    l1.finish();
}

/// Measures `runs` boots of each kind.
pub(crate) fn measure(stage: &Stage, runs: u32, report: &mut Report) -> anyhow::Result<()> {
    let _server = stage.serve();
    let cli = stage.cli();
    report.progress("firecracker: a create to warm the caches");
    cli.create(SHED, &["--cpus", "2", "--memory", "1024"]);
    cli.run(&["stop", SHED]).ok();
    let bare = Bare::like(stage)?;
    let (mut bares, mut sheds, mut starts) = (Times::default(), Times::default(), Times::default());
    for run in 0..=runs {
        let by_hand = bare.boot()?;
        let (by_shed, whole) = start(stage);
        // The first of each fills the caches.
        if run > 0 {
            bares.push(by_hand);
            sheds.push(by_shed);
            starts.push(whole);
        }
        report.progress(&format!(
            "firecracker {run}/{runs}: bare {} ms, shed {} ms, `shed start` {} ms",
            by_hand.as_millis(),
            by_shed.as_millis(),
            whole.as_millis()
        ));
        cli.run(&["stop", SHED]).ok();
    }
    cli.delete(SHED);
    report.times("bare Firecracker to the agent's readiness", &bares);
    report.times("start of a shed to its agent's readiness", &sheds);
    report.at_most("  ratio of the medians", sheds.p50() / bares.p50(), TARGET, "x");
    report.times("shed start, as the user waits for it", &starts);
    Ok(())
}

/// From the start of `shed start` to the agent's readiness, and to the end of the program.
fn start(stage: &Stage) -> (Duration, Duration) {
    let console = stage.shed_file(SHED, "console.log");
    let before = fs::metadata(&console).map_or(0, |meta| meta.len());
    let begun = Instant::now();
    let running = stage.cli().spawn(&["start", SHED]);
    thread::scope(|scope| {
        let watching = scope.spawn(|| await_ready(&console, before, begun));
        running.wait(BOOT * 2).ok();
        let whole = begun.elapsed();
        (watching.join().expect("the agent is ready"), whole)
    })
}

fn await_ready(console: &Utf8Path, skip: u64, begun: Instant) -> Duration {
    let skip = usize::try_from(skip).expect("a console fits into memory");
    wait_for("the agent to be ready", BOOT * 2, || {
        let bytes = fs::read(console).ok()?;
        // A start may begin the file anew.
        let new = bytes.get(skip..).unwrap_or(&bytes);
        String::from_utf8_lossy(new).contains(READY).then(|| begun.elapsed())
    })
}

/// How to start a machine like the shed's without Shed.
#[derive(Debug)]
struct Bare {
    dir: Utf8PathBuf,
    disk: Utf8PathBuf,
    tap: String,
}

impl Bare {
    /// Learns the machine from the file that Firecracker was given for the shed, which must be stopped.
    fn like(stage: &Stage) -> anyhow::Result<Self> {
        let shed_dir = stage.instance_dir().join(SHED);
        let dir = stage.dir().join("bare");
        fs::create_dir_all(&dir)?;
        let text =
            fs::read_to_string(shed_dir.join("firecracker.json")).context("no machine to learn from")?;
        let mut machine: serde_json::Value = serde_json::from_str(&text)?;
        let tap = machine["network-interfaces"][0]["host_dev_name"].as_str().context("no TAP")?.to_owned();
        let disk = dir.join("rootfs.ext4");
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .arg(shed_dir.join("rootfs.ext4"))
            .arg(&disk)
            .status()?;
        ensure!(copied.success(), "cannot copy the shed's disk");
        // In a jail the paths are the jail's.
        for drive in machine["drives"].as_array_mut().context("no disks")? {
            let path = if drive["is_read_only"] == true { shed_dir.join("image.ext4") } else { disk.clone() };
            drive["path_on_host"] = path.as_str().into();
        }
        machine["boot-source"]["kernel_image_path"] = stage.images_dir().join("vmlinux").as_str().into();
        machine["boot-source"]["initrd_path"] = stage.images_dir().join("initrd.img").as_str().into();
        for (section, key, file) in
            [("vsock", "uds_path", "vsock"), ("metrics", "metrics_path", "metrics.json")]
        {
            machine[section][key] = dir.join(file).as_str().into();
        }
        // The guest finds its disks by numbers of their files.
        let words = machine["boot-source"]["boot_args"].as_str().context("no command line")?;
        let words: Vec<String> = words
            .split(' ')
            .map(|word| match word.split_once("shed.disk.shed-upper=") {
                Some(_) => serial_of(&disk).map(|serial| format!("shed.disk.shed-upper={serial}")),
                None => Ok(word.to_owned()),
            })
            .collect::<anyhow::Result<_>>()?;
        machine["boot-source"]["boot_args"] = words.join(" ").into();
        fs::write(dir.join("vm.json"), machine.to_string())?;
        Ok(Self { dir, disk, tap })
    }

    /// Boots once, from the start of the process until the agent says that it is ready, and ends the machine.
    fn boot(&self) -> anyhow::Result<Duration> {
        for file in ["api", "vsock", "metrics.json", "console.log"] {
            let _none = fs::remove_file(self.dir.join(file));
        }
        ensure!(self.disk.is_file(), "{} is gone", self.disk);
        fs::write(self.dir.join("metrics.json"), "")?;
        let console = self.dir.join("console.log");
        let output = File::create(&console)?;
        ip(&["tuntap", "add", &self.tap, "mode", "tap"])?;
        let begun = Instant::now();
        let machine = Machine(
            Command::new("firecracker")
                .args(["--api-sock", self.dir.join("api").as_str()])
                .args(["--config-file", self.dir.join("vm.json").as_str()])
                .args(["--log-path", self.dir.join("vmm.log").as_str(), "--level", "Error"])
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output)
                .spawn()
                .context("cannot run firecracker")?,
        );
        let took = await_ready(&console, 0, begun);
        drop(machine);
        ip(&["link", "delete", &self.tap])?;
        Ok(took)
    }
}

/// The serial number that Firecracker gives a disk.
fn serial_of(path: &Utf8Path) -> anyhow::Result<String> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path)?;
    let mut serial = format!("{}{}{}", meta.dev(), meta.rdev(), meta.ino());
    serial.truncate(20);
    Ok(serial)
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("ip").args(arguments).status().context("cannot run ip")?;
    ensure!(done.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}

/// Ends with this value.
#[derive(Debug)]
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}
