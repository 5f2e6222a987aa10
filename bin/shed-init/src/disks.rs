//! Finds the shed's disks by their serial numbers and waits for those that have not appeared yet.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        recv, socket_with,
    },
};

use crate::errors::{BootError, DiskRole};

/// How long a disk may take to appear; a machine under software emulation on a busy host is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hears the kernel announce devices. Open it before drivers are loaded, so that no announcement is missed.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    uevents: Option<OwnedFd>,
}

impl DiskWatch {
    /// Begins to listen. Without a socket disks are looked for now and then instead.
    pub(crate) fn open() -> Self {
        Self { uevents: uevent_socket().ok() }
    }

    /// Returns the device of a disk with this serial number, as soon as it is there.
    pub(crate) fn find(&self, role: DiskRole, serial: &str) -> Result<PathBuf, BootError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(device) = device_with_serial(Path::new("/sys/block"), serial) {
                return Ok(device);
            }
            if Instant::now() >= deadline {
                let present = serials(Path::new("/sys/block"));
                let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
                let serial = serial.to_owned();
                return Err(BootError::DiskMissing { role, serial, waited_s: PATIENCE.as_secs(), present });
            }
            self.wait_for_change(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Waits for an announcement, at most `limit`. A second is the longest even then: an announcement may be lost.
    fn wait_for_change(&self, limit: Duration) {
        let limit = limit.min(Duration::from_secs(1));
        let timeout = Timespec::try_from(limit).ok();
        match &self.uevents {
            Some(socket) => {
                let mut fds = [PollFd::new(socket, PollFlags::IN)];
                if poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0) {
                    let mut message = [0_u8; 4096];
                    while recv(socket, &mut message[..], RecvFlags::DONTWAIT).is_ok() {}
                }
            }
            None => {
                let _interrupted = poll(&mut [], timeout.as_ref());
            }
        }
    }
}

fn uevent_socket() -> io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    // Group 1 is the kernel's own announcements.
    bind(&socket, &SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

/// Looks through `sys_block` for the disk whose serial is exactly `serial`.
fn device_with_serial(sys_block: &Path, serial: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(sys_block).ok()?;
    let found = entries.flatten().find(|entry| serial_of(&entry.path()).as_deref() == Some(serial))?;
    Some(Path::new("/dev").join(found.file_name()))
}

fn serials(sys_block: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(sys_block) else { return Vec::new() };
    let name = |entry: fs::DirEntry| {
        let serial = serial_of(&entry.path())?;
        Some(format!("{} {serial:?}", entry.file_name().to_string_lossy()))
    };
    entries.flatten().filter_map(name).collect()
}

/// A disk's serial. virtio-blk's is in `serial`; other drivers have it below `device`.
fn serial_of(disk: &Path) -> Option<String> {
    let text =
        ["serial", "device/serial"].iter().find_map(|name| fs::read_to_string(disk.join(name)).ok())?;
    let serial = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!serial.is_empty()).then(|| serial.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_whole_serial_only() {
        let sys = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "shed-upper-2\n"), ("vdb", "shed-upper\n"), ("sr0", "")] {
            fs::create_dir(sys.path().join(name)).unwrap();
            fs::write(sys.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir_all(sys.path().join("sda/device")).unwrap();
        fs::write(sys.path().join("sda/device/serial"), "shed-image").unwrap();
        fs::create_dir(sys.path().join("loop0")).unwrap();
        assert_eq!(device_with_serial(sys.path(), "shed-upper"), Some(PathBuf::from("/dev/vdb")));
        assert_eq!(device_with_serial(sys.path(), "shed-image"), Some(PathBuf::from("/dev/sda")));
        assert_eq!(device_with_serial(sys.path(), "shed"), None);
        assert_eq!(serials(sys.path()).len(), 3);
    }
}
