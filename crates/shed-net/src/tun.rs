//! Makes TAP devices by /dev/net/tun.
//!
//! A device is there as long as its descriptor is open, until it is made to stay. So whoever makes one does all else to it
//! first: an error, or the end of the process, leaves nothing behind.

use std::{
    fs::{File, OpenOptions},
    io,
};

use libc::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, c_int};
use rustix::{
    io::Errno,
    ioctl::{IntegerSetter, Setter, ioctl, opcode},
};

use crate::names::{DEVICE_NAME_MAX, TapName};

/// Where TAPs are made (Linux, Documentation/networking/tuntap.rst).
pub(crate) const DEVICE: &str = "/dev/net/tun";

// linux/if_tun.h.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETPERSIST: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 203);
const TUNSETOWNER: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 204);
const TUNSETGROUP: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 206);

/// Refuses a device that is already there (linux/if_tun.h: IFF_TUN_EXCL).
const EXCLUSIVE: u16 = 0x8000;

/// Who may open a TAP without CAP_NET_ADMIN: the VMM's user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOwner {
    /// Its user.
    pub uid: u32,
    /// A group it is in.
    pub gid: u32,
}

impl TapOwner {
    /// Returns the user and group of this process.
    #[must_use]
    pub fn this_process() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// A TAP that vanishes with this value.
#[derive(Debug)]
pub(crate) struct NewTap {
    file: File,
}

/// As the kernel's `struct ifreq` (linux/if.h): a name that ends with zero, then a union, of which this is `ifr_flags`.
#[repr(C)]
struct Request {
    name: [u8; DEVICE_NAME_MAX + 1],
    flags: u16,
    rest: [u8; 22],
}

impl NewTap {
    /// Makes a device of this name.
    ///
    /// # Errors
    /// `EBUSY` when there is one already, `EPERM` without CAP_NET_ADMIN, `ENOENT` or `ENODEV` without the driver.
    pub(crate) fn make(name: &TapName) -> io::Result<Self> {
        let mut request = Request { name: [0; DEVICE_NAME_MAX + 1], flags: 0, rest: [0; 22] };
        request.name[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
        // Whoever opens it later sets the flags anew; all that stays is that it is a TAP with one queue.
        let flags = [IFF_TAP, IFF_NO_PI, IFF_VNET_HDR].into_iter().fold(0, |all, flag| all | flag);
        request.flags = u16::try_from(flags).map_err(|_too_large| Errno::INVAL)? | EXCLUSIVE;
        let file = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        // SAFETY: TUNSETIFF reads a `struct ifreq`, which `Request` has the size and the layout of.
        unsafe { ioctl(&file, Setter::<TUNSETIFF, Request>::new(request)) }?;
        Ok(Self { file })
    }

    /// Lets the device stay, for its owner to open.
    ///
    /// # Errors
    /// When the kernel refuses. Then it vanishes.
    pub(crate) fn keep(self, owner: TapOwner) -> io::Result<()> {
        let (uid, gid) = (owner.uid as usize, owner.gid as usize);
        // SAFETY: these three take a number in the place of the pointer and touch no memory.
        unsafe {
            ioctl(&self.file, IntegerSetter::<TUNSETOWNER>::new_usize(uid))?;
            ioctl(&self.file, IntegerSetter::<TUNSETGROUP>::new_usize(gid))?;
            ioctl(&self.file, IntegerSetter::<TUNSETPERSIST>::new_usize(1))?;
        }
        Ok(())
    }
}
