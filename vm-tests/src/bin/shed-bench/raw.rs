//! The yardstick for booting: QEMU with the very arguments Shed uses, started by hand.
//!
//! The arguments are read from the command line of a running shed's machine, so that they cannot drift apart. Only
//! paths are replaced, and the two sockets, which Shed hands over as descriptors, are given as paths.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use vm_tests::{BOOT, Stage, VmmProcess, wait_for};

/// What the agent writes to the console when it takes connections.
const READY: &str = "shed-agent: ready";

/// How to start a machine like Shed's without Shed.
#[derive(Debug)]
pub(crate) struct RawQemu {
    program: String,
    arguments: Vec<String>,
    dir: Utf8PathBuf,
    image: Utf8PathBuf,
    template: Utf8PathBuf,
    link: Utf8PathBuf,
}

impl RawQemu {
    /// Learns the arguments from the machine of `shed`, which must run.
    pub(crate) fn like(stage: &Stage, shed: &str, machine: &VmmProcess) -> anyhow::Result<Self> {
        let words =
            fs::read(format!("/proc/{}/cmdline", machine.pid)).context("cannot read the command line")?;
        let words = String::from_utf8(words).context("the command line is no UTF-8")?;
        let shed_dir = stage.instance_dir().join(shed);
        let dir = stage.dir().join("raw");
        fs::create_dir_all(&dir)?;
        let mut words = words.trim_end_matches('\0').split('\0').map(|word| {
            let word = word.replace(shed_dir.as_str(), dir.as_str());
            // `socket,id=NAME,fd=N,server=on,…`: the number is that of a descriptor of Shed's.
            match word.split_once(",fd=") {
                Some((head, rest)) if head.starts_with("socket,id=") => {
                    let name = head.trim_start_matches("socket,id=");
                    let rest = rest.split_once(',').map_or("", |(_, rest)| rest);
                    format!("{head},path={}/raw.{name},{rest}", stage.socket_dir())
                }
                _ => word,
            }
        });
        let program = words.next().context("an empty command line")?;
        let arguments: Vec<String> = words.collect();
        let cache = stage.images_dir().join(".cache");
        let template = cache.read_dir_utf8()?.flatten().map(|entry| entry.path().to_owned());
        let template = template
            .filter(|path| {
                path.file_name().is_some_and(|name| name.starts_with("upper-") && name.ends_with(".ext4"))
            })
            .max();
        Ok(Self {
            program,
            arguments,
            link: stage.socket_dir().join("raw.link"),
            image: shed_dir.join("image.ext4"),
            template: template
                .context("the server keeps a template of an empty disk in the cache beside its images")?,
            dir,
        })
    }

    /// Gives the next boot the same files that a new shed's has. Call it before the machine of the shed is gone.
    pub(crate) fn keep_image(&mut self) -> anyhow::Result<()> {
        let kept = self.dir.join("image.ext4");
        fs::hard_link(&self.image, &kept).context("cannot link the image")?;
        self.image = kept;
        Ok(())
    }

    /// Boots once, from the start of the process until the agent says that it is ready, and ends the machine.
    pub(crate) fn boot(&self) -> anyhow::Result<Duration> {
        self.start().map(|(_machine, took)| took)
    }

    /// Returns the socket of the machine's agent.
    pub(crate) fn link(&self) -> &Utf8Path {
        &self.link
    }

    /// Boots and leaves the machine running until the value is dropped; also says how long it took to be ready.
    pub(crate) fn start(&self) -> anyhow::Result<(Machine, Duration)> {
        let console = self.dir.join("console.log");
        for file in [&console, &self.dir.join("rootfs.ext4")] {
            let _none = fs::remove_file(file);
        }
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(&self.template).arg(self.dir.join("rootfs.ext4"));
        ensure!(copy.status()?.success(), "cannot copy {}", self.template);
        let log = fs::File::create(self.dir.join("vmm.log"))?;
        let begun = Instant::now();
        let mut machine = Machine(
            Command::new(&self.program)
                .args(&self.arguments)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot run {}", self.program))?,
        );
        let took = wait_for("the agent of the raw machine", BOOT, || {
            if let Ok(Some(status)) = machine.0.try_wait() {
                panic!(
                    "QEMU ended with {status}: {}",
                    fs::read_to_string(self.dir.join("vmm.log")).unwrap_or_default()
                );
            }
            has_line(&console).then(|| begun.elapsed())
        });
        Ok((machine, took))
    }
}

fn has_line(console: &Utf8Path) -> bool {
    fs::read(console).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(READY))
}

/// Ends with this value.
#[derive(Debug)]
pub(crate) struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}
