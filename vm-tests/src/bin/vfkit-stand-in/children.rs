//! The processes behind a machine: QEMU, who serves its vsock device, who serves each directory.
//!
//! Under vfkit all of that is vfkit's own process and ends with it. So each child here is killed by the kernel when this
//! process ends, however it ends; and none gets the signals of the terminal, which are for this process alone.

use std::process::Stdio;

use anyhow::{Context, bail};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::process::{Child, Command};
use vm_tests::find_program;

use crate::{
    devices::Device,
    machine::Machine,
    qemu::{Accelerator, Arch, Sockets, arguments},
};

/// Context id of every guest; there is one a device.
const GUEST_CID: &str = "3";

/// Most bytes that the guest may send before the vsock device has passed them on. Linux lays out longer packets in pieces,
/// which this device drops (see the machine of the tests of the vsock link).
const WINDOW: &str = "28672";

/// How often it is looked whether a socket is there yet.
const LOOK: std::time::Duration = std::time::Duration::from_millis(5);

/// Where distributions keep virtiofsd, which is in no `PATH`.
const VIRTIOFSD_PLACES: [&str; 3] =
    ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"];

/// Finds a program and prepares a child of it, which must be started by the program's first thread: with that it dies.
///
/// # Errors
/// When there is no such program.
fn command(name: &str) -> anyhow::Result<Command> {
    let kept = || {
        VIRTIOFSD_PLACES.iter().map(Utf8PathBuf::from).find(|place| place.ends_with(name) && place.is_file())
    };
    let program = find_program(name)
        .or_else(kept)
        .with_context(|| format!("there is no {name}; scripts/setup.sh --tests installs it"))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    die_with_us(&mut command);
    Ok(command)
}

fn die_with_us(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

    let parent = getpid();
    // SAFETY: the closure runs between fork and exec, makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // Too late when the parent has gone already.
            if getppid() != Some(parent) { Err(rustix::io::Errno::SRCH.into()) } else { Ok(()) }
        });
    }
}

/// Starts who serves the vsock device and the directories; returns when all of them listen.
///
/// # Errors
/// When a program is missing or ends.
pub(crate) async fn helpers(machine: &Machine, sockets: &Sockets) -> anyhow::Result<Vec<Child>> {
    let mut started: Vec<(Child, Utf8PathBuf)> = Vec::new();
    if machine.vsocks().next().is_some() {
        let mut device = command("vhost-device-vsock")?;
        forget(&[sockets.vhost(), sockets.vsock()])?;
        device.args(["--guest-cid", GUEST_CID, "--tx-buffer-size", WINDOW, "--socket"]).arg(sockets.vhost());
        device.arg("--uds-path").arg(sockets.vsock());
        started.push((device.spawn().context("vhost-device-vsock")?, sockets.vhost()));
    }
    for (number, device) in machine.devices.iter().enumerate() {
        if let Device::Share { dir, .. } = device {
            let socket = sockets.of_device(number);
            forget(std::slice::from_ref(&socket))?;
            let daemon = virtiofsd(Utf8Path::new(dir), &socket)?.spawn().context("virtiofsd")?;
            started.push((daemon, socket));
        }
    }
    let mut children = Vec::new();
    for (mut child, socket) in started {
        listens(&mut child, &socket).await?;
        children.push(child);
    }
    Ok(children)
}

/// Removes the sockets of a former boot, so that one that is there is of this one.
fn forget(sockets: &[Utf8PathBuf]) -> anyhow::Result<()> {
    for socket in sockets {
        match std::fs::remove_file(socket) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove {socket}")),
        }
    }
    Ok(())
}

/// Whoever asks in the guest, files are read and written as the user of this process, as they are under vfkit.
fn virtiofsd(dir: &Utf8Path, socket: &Utf8Path) -> anyhow::Result<Command> {
    let mut daemon = command("virtiofsd")?;
    daemon.arg(format!("--socket-path={socket}")).arg(format!("--shared-dir={dir}"));
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    daemon.arg(format!("--translate-uid=squash-guest:0:{uid}:{}", u32::MAX));
    daemon.arg(format!("--translate-gid=squash-guest:0:{gid}:{}", u32::MAX));
    // Whoever runs tests trusts their guests; a sandbox would need ids or rights that they may not have.
    daemon.args([
        "--sandbox=none",
        "--cache=never",
        "--allow-mmap",
        "--announce-submounts",
        "--log-level=error",
    ]);
    Ok(daemon)
}

/// Starts QEMU; its monitor is on its pipes.
///
/// # Errors
/// When there is none.
pub(crate) fn qemu(machine: &Machine, accelerator: Accelerator, sockets: &Sockets) -> anyhow::Result<Child> {
    let mut qemu = command(Arch::HOST.program())?;
    qemu.args(arguments(machine, Arch::HOST, accelerator, sockets));
    qemu.stdin(Stdio::piped()).stdout(Stdio::piped());
    qemu.spawn().context("QEMU")
}

/// Waits until a child listens on a socket.
async fn listens(child: &mut Child, socket: &Utf8Path) -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            ended = child.wait() => bail!("the process of {socket} ended at once: {}", ended?),
            _ = looks.tick() => {
                let sockets = std::fs::read_to_string("/proc/net/unix").context("/proc/net/unix")?;
                if sockets.lines().any(|line| is_listener(line, socket)) {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether a line of /proc/net/unix is a listener of this path (Linux, net/unix/af_unix.c: the fourth word has the flag
/// `__SO_ACCEPTCON`, 0x10000, the eighth is the path). The file of a socket is there a moment before.
fn is_listener(line: &str, socket: &Utf8Path) -> bool {
    let mut words = line.splitn(8, ' ').map(str::trim);
    let listens =
        words.nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok()).is_some_and(|f| f & 0x10000 != 0);
    listens && line.ends_with(&format!(" {socket}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let line = |flags: &str, path: &str| {
            format!("0000000000000000: 00000002 00000000 {flags} 0001 01 12345 {path}")
        };
        let socket = Utf8Path::new("/tmp/a b/vhost");
        assert!(is_listener(&line("00010000", "/tmp/a b/vhost"), socket));
        assert!(!is_listener(&line("00000000", "/tmp/a b/vhost"), socket));
        assert!(!is_listener(&line("00010000", "/tmp/a b/vhost2"), socket));
        assert!(!is_listener("Num       RefCount Protocol Flags    Type St Inode Path", socket));
    }
}
