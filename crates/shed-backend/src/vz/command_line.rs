//! vfkit's command line for a machine: a pure function, and the test whether a command line is one of ours.
//!
//! Called by the launch. It reads nothing and refuses what vfkit would read in another way than meant: vfkit's grammar, and
//! which version it is of, is in docs/adr/0014-vfkit-command-line.md.
//!
//! Why the machine is as it is:
//! - Disks have serial numbers (`deviceId`), by which shed-init finds them; their order means nothing.
//! - The console is virtio's (`hvc0`), which is the only one that the framework has for Linux.
//! - The network card has an address that follows from the shed. macOS gives each address that it has not seen a lease of
//!   its own, of which it has some 250, and vfkit would roll one for each boot.
//! - The ports that the host connects to come last, and the last of all is the sign that the machine runs ([`last_port`]):
//!   vfkit makes their sockets in the order of the command line when it does.
//! - The launch is named by a word of the kernel's command line, because vfkit has no option that carries a text of ours.

use camino::Utf8Path;
use shed_types::{GuestPort, LaunchId};

use super::{
    paths::{boot_file_problem, file_problem},
    sockets::SocketPaths,
};
use crate::{Disk, DiskAccess, Share, StartVmError, VmSpec, socket_names::fnv1a};

/// What the guest's kernel is told besides the launch: to speak on the console, only when something is wrong; to boot
/// again a second after a panic; and by what the agent is reached.
const KERNEL_WORDS: [&str; 4] = ["console=hvc0", "quiet", "panic=1", "shed.link=vsock"];

/// Where the agent says its words: the port of the host has the number of a port of the guest, and is another one.
const WORDS: GuestPort = GuestPort::Health;

/// Returns the arguments of vfkit for this machine, without the program itself.
///
/// # Errors
/// When something of the machine cannot be expressed.
pub(super) fn arguments(spec: &VmSpec, sockets: &SocketPaths) -> Result<Vec<String>, StartVmError> {
    let mut args = Args::default();
    args.pair("--cpus", spec.cpus.to_string());
    args.pair("--memory", spec.memory_mb.to_string());
    let (kernel, initrd) = (&spec.kernel, &spec.initrd);
    refuse(kernel, boot_file_problem(kernel))?;
    refuse(initrd, boot_file_problem(initrd))?;
    let words = kernel_command_line(spec)?;
    args.pair("--bootloader", format!("linux,kernel={kernel},initrd={initrd},cmdline=\"{words}\""));
    args.pair("--restful-uri", rest_uri(sockets));
    args.device(format!("virtio-serial,logFilePath={}", fit(&spec.console_log)?));
    args.device("virtio-rng");
    args.device(format!("virtio-net,nat,mac={}", hardware_address(sockets)));
    for disk in &spec.disks {
        args.device(blk(disk)?);
    }
    for share in &spec.shares {
        args.device(fs(share)?);
    }
    let vsock = |port: GuestPort, socket: &Utf8Path, direction: &str| {
        format!("virtio-vsock,port={},socketURL={socket},{direction}", port.number())
    };
    args.device(vsock(WORDS, &sockets.words(), "listen"));
    for port in GuestPort::ALL {
        args.device(vsock(port, &sockets.port(port), "connect"));
    }
    Ok(args.0)
}

/// Whether `words` is the command line of this launch's machine, whatever vfkit's program is called. Where the system tells
/// only a text (macOS), its words are cut at spaces.
pub(super) fn is_launch(words: &[Vec<u8>], sockets: &SocketPaths, launch_id: LaunchId) -> bool {
    let (rest, launch) = (rest_uri(sockets), launch_word(launch_id));
    let is_rest = |pair: &[Vec<u8>]| pair[0] == b"--restful-uri" && pair[1] == rest.as_bytes();
    let is_separator = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'"';
    words.windows(2).any(is_rest)
        && words.iter().flat_map(|word| word.split(is_separator)).any(|word| word == launch.as_bytes())
}

/// Returns the port whose socket vfkit makes last.
pub(super) const fn last_port() -> GuestPort {
    GuestPort::ALL[GuestPort::ALL.len() - 1]
}

fn rest_uri(sockets: &SocketPaths) -> String {
    format!("unix://{}", sockets.rest())
}

fn launch_word(launch_id: LaunchId) -> String {
    format!("shed.launch={launch_id}")
}

fn kernel_command_line(spec: &VmSpec) -> Result<String, StartVmError> {
    let bad =
        |word: &&String| word.contains('"') || word.chars().any(|c| c.is_whitespace() || c.is_control());
    if let Some(word) = spec.extra_cmdline.iter().find(bad) {
        let reason = "vfkit takes it in quotation marks, so it can have none, and no space";
        return Err(StartVmError::Parameter { word: word.clone(), reason });
    }
    let own = KERNEL_WORDS.into_iter().map(str::to_owned).chain([launch_word(spec.launch_id)]);
    Ok(own.chain(spec.extra_cmdline.iter().cloned()).collect::<Vec<_>>().join(" "))
}

/// An address of this shed of this server, which no maker of network cards gives out (IEEE 802, locally administered).
fn hardware_address(sockets: &SocketPaths) -> String {
    let [_, _, bytes @ ..] = fnv1a(sockets.rest().as_str().as_bytes()).to_be_bytes();
    let local = |(place, byte): (usize, u8)| if place == 0 { byte & 0xfc | 0x02 } else { byte };
    let pairs: Vec<_> = bytes.into_iter().enumerate().map(local).map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

fn blk(disk: &Disk) -> Result<String, StartVmError> {
    refuse(&disk.path, disk.problem())?;
    let access = match disk.access {
        DiskAccess::ReadOnly => ",readonly",
        DiskAccess::ReadWrite => "",
    };
    Ok(format!("virtio-blk,path={}{access},deviceId={}", fit(&disk.path)?, disk.serial))
}

fn fs(share: &Share) -> Result<String, StartVmError> {
    refuse(&share.source, share.problem())?;
    match share.access {
        // A mount option in the guest would be the guest's to change.
        DiskAccess::ReadOnly => refuse(
            &share.source,
            Some("it is to be read only, and vfkit shares directories for reading and writing alone"),
        )?,
        DiskAccess::ReadWrite => {}
    }
    Ok(format!("virtio-fs,sharedDir={},mountTag={}", fit(&share.source)?, share.tag))
}

/// Returns a path that vfkit reads as it is.
fn fit(path: &Utf8Path) -> Result<&Utf8Path, StartVmError> {
    refuse(path, file_problem(path)).map(|()| path)
}

fn refuse(path: &Utf8Path, problem: Option<&'static str>) -> Result<(), StartVmError> {
    match problem {
        Some(reason) => Err(StartVmError::Path { path: path.to_owned(), reason }),
        None => Ok(()),
    }
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn pair(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }

    fn device(&mut self, description: impl Into<String>) {
        self.pair("--device", description);
    }
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
mod tests;
