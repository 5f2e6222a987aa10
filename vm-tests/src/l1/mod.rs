//! An L1: a machine on this host that has KVM, in which Firecracker runs for real.
//!
//! It is an ordinary shed on the `qemu` backend. QEMU's emulation has AMD's SVM, and on a host with KVM nested
//! virtualisation does the same, so a guest needs no more than its module `kvm`. One disk is added to the shed, by a
//! wrapper around QEMU that the server is told to use: it holds the programs and guest files under test, and room for
//! what runs in the L1. The tests of the `firecracker` backend use it. It calls nothing inside the server, never uses
//! this host's network, and ends with its stage.

mod bare;
mod files;
mod inventory;

use std::{fmt::Write as _, process::Command, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};

pub use self::{
    bare::Bare,
    inventory::{Inventory, Watched},
};
use crate::{
    BOOT, Cli, Config, Finished, Parts, Running, SHORT, Server, Stage,
    parts::{BIN_DIR, GUEST_DIR, resolved},
    run, skipped,
    stage::BACKEND,
};

/// Names Firecracker's program. Shed does not bring it, and no test fetches it.
const FIRECRACKER: &str = "SHED_FIRECRACKER_BIN";

/// The L1's name as a shed.
const SHED: &str = "l1";

/// Processors of the L1. With two, QEMU's emulation of SVM (10.0) now and then loses the state of one when a machine in the
/// L1 moves from one to the other, and the L1 is reset.
const CPUS: &str = "1";

/// Memory of the L1 in MiB: enough for five small machines beside each other, and for the cache of their image.
const MEMORY_MB: &str = "4096";

/// Lines of each log that a failed test shows.
const LOG_LINES: u32 = 40;

/// Makes the L1 ready, once: the disk, KVM, and what Firecracker's networks need of the kernel.
const FURNISH: &str = r#"
for disk in /sys/block/*; do
    [ "$(cat "$disk/serial" 2>/dev/null)" = l1-files ] && device=/dev/${disk##*/}
done
mkdir -p /l1
mount "$device" /l1
mkdir -p /l1/run /l1/log
# Which of the two it is says the processor.
modprobe kvm-amd 2>/dev/null || modprobe kvm-intel 2>/dev/null || true
modprobe -a tun bridge nf_tables
# What the L1 itself still starts would be in the way of figures, and taken for something left over.
systemctl is-system-running --wait >/dev/null || true
/usr/lib/systemd/systemd-networkd-wait-online --timeout=60 || true
[ -c /dev/kvm ] || { echo "there is no /dev/kvm"; exit 1; }
"#;

/// The name in the L1 of the test's own program.
const ITSELF: &str = "test-itself";

/// Set for a test that runs in the L1: it does its part there.
const INSIDE: &str = "SHED_TEST_INSIDE_L1";

/// A machine with KVM that runs.
#[derive(Debug)]
pub struct L1 {
    cli: Cli,
    /// Dropped before the stage, which removes its files.
    server: Server,
    stage: Stage,
}

impl L1 {
    /// Where the disk with everything under test is mounted: `bin`, `images`, `log`, and `run` for whatever runs.
    pub const DIR: &str = "/l1";

    /// Boots one; returns nothing when there is no Firecracker to be tested, and says so.
    ///
    /// # Panics
    /// When the parts under test are missing, when it does not boot, or when it has no KVM.
    #[must_use]
    pub fn boot() -> Option<Self> {
        let parts = Parts::find()?;
        let Ok(program) = std::env::var(FIRECRACKER) else {
            skipped(&format!("{FIRECRACKER} names no Firecracker to run; docs/testing.md says more"));
            return None;
        };
        if !cfg!(target_arch = "x86_64") {
            skipped("an L1 is known to work on x86-64 only");
            return None;
        }
        let firecracker = resolved(&program).filter(|path| path.is_file());
        let firecracker = firecracker.unwrap_or_else(|| panic!("{FIRECRACKER}={program} is not a file"));
        Some(Self::with(parts, &firecracker))
    }

    fn with(parts: Parts, firecracker: &Utf8Path) -> Self {
        let mut stage = Stage::with(parts, Config::default());
        let disk = files::disk(&stage, firecracker);
        let qemu = files::wrapper(&stage, &disk);
        stage.configure(Config { qemu_binary: Some(qemu), ..Config::default() });
        let server = stage.serve();
        let l1 = Self { cli: stage.cli(), server, stage };
        l1.cli.create(SHED, &["--cpus", CPUS, "--memory", MEMORY_MB]);
        let done = l1.run(FURNISH, BOOT);
        assert_eq!(
            done.code,
            0,
            "the L1 cannot run machines: {} {}; its processor must have SVM or VMX, which QEMU's emulation has, and a \
             host with KVM when nested virtualisation is on",
            done.out(),
            done.err()
        );
        l1
    }

    /// Whether this process runs in an L1, by [`Self::run_inside`].
    #[must_use]
    pub fn is_here() -> bool {
        std::env::var_os(INSIDE).is_some()
    }

    /// Runs the test of this name, of this very program, in the L1.
    ///
    /// # Panics
    /// When it fails, with what it printed, or does not end in time.
    #[track_caller]
    pub fn run_inside(&self, test: &str, deadline: Duration) {
        self.run_itself(&format!("--exact {test} --nocapture"), deadline);
    }

    /// Runs this very program in the L1, with these arguments.
    ///
    /// # Panics
    /// When it fails, with what it printed, or does not end in time.
    #[track_caller]
    pub fn run_itself(&self, arguments: &str, deadline: Duration) {
        let script = format!(
            "export {BIN_DIR}={dir}/bin {GUEST_DIR}={dir}/images {BACKEND}=firecracker {INSIDE}=1 RUST_BACKTRACE=0\n\
             {ITSELF} {arguments} 2>&1",
            dir = Self::DIR
        );
        let done = self.run(&script, deadline);
        assert_eq!(done.code, 0, "in the L1:\n{}", done.out());
        say(&done.out());
    }

    /// Runs a script of bash as root, with `/l1/bin` in front of its `PATH` and failing with the first command that
    /// does; returns what it prints.
    ///
    /// # Panics
    /// When it fails, or takes longer than a boot.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run(script, BOOT).ok().out()
    }

    /// Runs such a script, whatever comes of it.
    ///
    /// # Panics
    /// When it does not end within `deadline`.
    #[track_caller]
    pub fn run(&self, script: &str, deadline: Duration) -> Finished {
        self.run_with(script, b"", deadline)
    }

    /// Runs such a script with input.
    ///
    /// # Panics
    /// When it does not end within `deadline`.
    #[track_caller]
    pub fn run_with(&self, script: &str, input: &[u8], deadline: Duration) -> Finished {
        run(&mut self.command(script), input, deadline)
    }

    /// Starts such a script; it ends with the value.
    #[track_caller]
    #[must_use]
    pub fn spawn(&self, script: &str) -> Running {
        Running::spawn(&mut self.command(script))
    }

    /// Writes a file in the L1, with all directories above it.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn put(&self, path: &str, content: &[u8]) {
        let script = format!("mkdir -p \"$(dirname '{path}')\"; cat >'{path}'");
        self.run_with(&script, content, SHORT * 4).ok();
    }

    /// Starts a program as a service of the L1, which runs on when the script that asked for it has ended. What it
    /// prints goes to `/l1/log/NAME.log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(&self, name: &str, command: &str) {
        self.sh(&format!(
            "systemd-run --quiet --collect --unit {name} --property KillMode=process --setenv PATH=\"$PATH\" \
             --setenv HOME=/root --property StandardOutput=append:/l1/log/{name}.log \
             --property StandardError=append:/l1/log/{name}.log -- {command}"
        ));
    }

    /// Returns the ends of all logs in the L1: of the services, and of its kernel.
    #[must_use]
    pub fn logs(&self) -> String {
        let script = format!(
            "set +e; for log in /l1/log/*; do [ -f \"$log\" ] || continue; echo \"--- the end of $log ---\"; tail -n {LOG_LINES} \"$log\"; done; \
             echo '--- the end of the kernel log ---'; dmesg | tail -n {LOG_LINES}"
        );
        // A test that fails asks for this: whatever is wrong with the L1, another panic would hide why.
        let seconds = SHORT.as_secs().to_string();
        let asked = self.command(&script);
        let mut limited = Command::new("timeout");
        limited.arg(seconds).arg(asked.get_program()).args(asked.get_args()).env_clear();
        let output = limited.envs(asked.get_envs().filter_map(|(key, value)| Some((key, value?)))).output();
        match output {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => format!("no logs of the L1: {error}"),
        }
    }

    /// The machine's own files on this host.
    #[must_use]
    pub fn console_log(&self) -> Utf8PathBuf {
        self.stage.shed_file(SHED, "console.log")
    }

    /// Ends the L1 and checks that nothing of it is left on this host.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn finish(self) {
        self.cli.delete(SHED);
        self.stage.assert_only(&[]);
    }

    fn command(&self, script: &str) -> Command {
        let script = format!("set -euo pipefail\nexport PATH={}/bin:$PATH\n{script}\n", Self::DIR);
        self.cli.command(&["exec", "-u", "root", SHED, "--", "bash", "-c", &script])
    }
}

impl Drop for L1 {
    fn drop(&mut self) {
        if std::thread::panicking() && self.server.answers() {
            say(&self.logs());
        }
    }
}

/// Makes one word for a shell of `text`.
fn quoted(text: &str) -> String {
    let mut word = String::new();
    let _infallible = write!(word, "'{}'", text.replace('\'', r"'\''"));
    word
}

#[expect(clippy::print_stderr, reason = "a failed test shows its logs")]
fn say(text: &str) {
    eprintln!("{text}");
}
