//! The few values below /proc/sys/net that the network depends on. CAP_NET_ADMIN may write them, root or not.

use std::{fs, io, path::PathBuf};

/// Whether the host forwards IPv4 at all.
pub(crate) const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Reads a switch.
pub(crate) fn is_on(path: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path)?.trim() != "0")
}

/// Turns a switch on.
pub(crate) fn turn_on(path: &str) -> io::Result<()> {
    fs::write(path, "1\n")
}

/// Turns IPv6 off on a device, whose name has been checked. Without IPv6 in the kernel there is nothing to do.
pub(crate) fn no_ipv6(device: &str) -> io::Result<()> {
    let path = PathBuf::from("/proc/sys/net/ipv6/conf").join(device).join("disable_ipv6");
    match fs::write(path, "1\n") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
