//! Gives the machine the address that the host says, so that the first command has a network.
//!
//! By the old ioctls (netdevice(7)), which every kernel has and which need no netlink library. Only IPv4, one
//! interface, one default route. systemd-networkd is told the same in a file of its own under /run, because it
//! takes away addresses that it does not know; other network programs that are at work are left alone.

use std::{
    ffi::CString,
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use shed_protocol::NetworkIdentity;

use crate::{log, whole_file};

/// Where programs that manage the network keep their state while they run.
const MANAGERS: [&str; 2] = ["/run/NetworkManager", "/run/connman"];

/// There while systemd runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// What networkd reads before the image's own files: those are sorted by name (systemd.network(5)).
const NETWORKD_FILE: &str = "/run/systemd/network/05-shed.network";

/// There while networkd runs.
const NETWORKD_STATE: &str = "/run/systemd/netif/links";

/// First line of a resolv.conf that the agent wrote, and may write again.
const MARK: &str = "# Written by shed-agent.";

/// Settings, parsed.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    address: Ipv4Addr,
    netmask: Ipv4Addr,
    gateway: Ipv4Addr,
    dns: Vec<Ipv4Addr>,
}

/// Applies the settings to the machine's first network interface.
pub(crate) fn configure(identity: &NetworkIdentity) -> io::Result<()> {
    let settings = parse(identity)?;
    if MANAGERS.iter().any(|path| Path::new(path).exists()) {
        return Ok(());
    }
    let interface = first_interface(Path::new("/sys/class/net"))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no network interface"))?;
    let control = Control::open()?;
    if control.address(&interface) != Some(settings.address) {
        control.set_address(&interface, &settings)?;
    }
    if let Some(mtu) = identity.mtu {
        control.set_mtu(&interface, mtu)?;
    }
    control.bring_up(&interface)?;
    control.set_default_route(&interface, settings.gateway)?;
    if Path::new(SYSTEMD).exists() {
        tell_networkd(&interface, identity)?;
    }
    write_resolv_conf(Path::new("/etc/resolv.conf"), &settings.dns)?;
    log::info(&format!("{interface} has {}", settings.address));
    Ok(())
}

/// Writes the settings down for networkd. One that runs already is told to look, without waiting for it.
fn tell_networkd(interface: &str, identity: &NetworkIdentity) -> io::Result<()> {
    let path = Path::new(NETWORKD_FILE);
    // By its hardware address: udev may give the interface another name after this.
    let hardware = fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
    let text = networkd_file(hardware.trim(), identity);
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    whole_file::replace(path, text.as_bytes(), 0o644)?;
    if Path::new(NETWORKD_STATE).exists() {
        // The child is reaped with all others when it ends.
        drop(tokio::process::Command::new("networkctl").arg("reload").spawn()?);
    }
    Ok(())
}

fn networkd_file(hardware: &str, identity: &NetworkIdentity) -> String {
    let NetworkIdentity { address, gateway, dns, mtu } = identity;
    let mut text = format!("# Written by shed-agent.\n[Match]\nMACAddress={hardware}\n");
    if let Some(mtu) = mtu {
        text.push_str(&format!("[Link]\nMTUBytes={mtu}\n"));
    }
    text.push_str(&format!("[Network]\nAddress={address}\nGateway={gateway}\n"));
    for server in dns {
        text.push_str(&format!("DNS={server}\n"));
    }
    text
}

/// Brings up the loopback, which nobody else does without an init.
pub(crate) fn bring_up_loopback() -> io::Result<()> {
    Control::open()?.bring_up("lo")
}

fn parse(identity: &NetworkIdentity) -> io::Result<Settings> {
    let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no IPv4 address"));
    let address = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| bad(text));
    let (host, prefix) = identity.address.split_once('/').ok_or_else(|| bad(&identity.address))?;
    let prefix: u32 =
        prefix.parse().ok().filter(|bits| (1..=32).contains(bits)).ok_or_else(|| bad(&identity.address))?;
    Ok(Settings {
        address: address(host)?,
        netmask: Ipv4Addr::from_bits(u32::MAX << (32 - prefix)),
        gateway: address(&identity.gateway)?,
        dns: identity.dns.iter().map(|text| address(text)).collect::<Result<_, _>>()?,
    })
}

/// The first interface that stands for a device.
fn first_interface(sys_class_net: &Path) -> Option<String> {
    let mut names: Vec<String> = fs::read_dir(sys_class_net)
        .ok()?
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.into_iter().next()
}

/// Only where nobody else has said anything: no file, an empty one, or our own.
///
/// A link is followed. That of systemd-resolved leads nowhere until it has started, seconds after the first command
/// may run; it replaces the file then.
fn write_resolv_conf(path: &Path, dns: &[Ipv4Addr]) -> io::Result<()> {
    let target = fs::read_link(path).ok().and_then(|link| Some(path.parent()?.join(link)));
    let path = target.as_deref().unwrap_or(path);
    let old = fs::read_to_string(path).unwrap_or_default();
    if dns.is_empty() || !(old.trim().is_empty() || old.starts_with(MARK)) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let servers: String = dns.iter().map(|server| format!("nameserver {server}\n")).collect();
    whole_file::replace(path, format!("{MARK}\n{servers}").as_bytes(), 0o644)
}

/// The socket that the ioctls go through.
struct Control(OwnedFd);

impl Control {
    fn open() -> io::Result<Self> {
        Ok(Self(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?))
    }

    fn address(&self, interface: &str) -> Option<Ipv4Addr> {
        let mut request = request(interface).ok()?;
        self.ioctl(libc::SIOCGIFADDR, &mut request).ok()?;
        // SAFETY: SIOCGIFADDR on an AF_INET socket fills ifru_addr with a sockaddr_in, which has the size and, as the
        // union's other members, an alignment that fits.
        let address =
            unsafe { (&raw const request.ifr_ifru.ifru_addr).cast::<libc::sockaddr_in>().read_unaligned() };
        Some(Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr)))
    }

    fn set_address(&self, interface: &str, settings: &Settings) -> io::Result<()> {
        for (code, address) in
            [(libc::SIOCSIFADDR, settings.address), (libc::SIOCSIFNETMASK, settings.netmask)]
        {
            let mut request = request(interface)?;
            request.ifr_ifru.ifru_addr = socket_address(address);
            self.ioctl(code, &mut request)?;
        }
        Ok(())
    }

    fn set_mtu(&self, interface: &str, mtu: u16) -> io::Result<()> {
        let mut request = request(interface)?;
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.ioctl(libc::SIOCSIFMTU, &mut request)
    }

    fn bring_up(&self, interface: &str) -> io::Result<()> {
        let mut request = request(interface)?;
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let up = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(libc::c_short::MAX);
        request.ifr_ifru.ifru_flags = flags | up;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    fn set_default_route(&self, interface: &str, gateway: Ipv4Addr) -> io::Result<()> {
        let device = CString::new(interface)?;
        // SAFETY: rtentry is a C struct of integers, pointers and socket addresses, for all of which zero is a value.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // The kernel reads the name only; the C struct has no way to say so.
        route.rt_dev = device.as_ptr().cast_mut();
        // SAFETY: SIOCADDRT reads an rtentry and the name that it points to; both live until after the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCADDRT, &raw const route) };
        let error = io::Error::last_os_error();
        if result == 0 || error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
    }

    fn ioctl(&self, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: each code that is used here reads and writes one ifreq, and this one lives through the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), code, &raw mut *request) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is a C struct of bytes, integers and socket addresses, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        // C's char is signed on amd64 and not on arm64.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    let inet = libc::sockaddr_in {
        sin_family: family,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: address.to_bits().to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: sockaddr_in is made to be passed as a sockaddr: both are 16 bytes of plain data (ip(7)).
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(address: &str) -> NetworkIdentity {
        NetworkIdentity {
            address: address.into(),
            gateway: "10.0.2.2".into(),
            dns: vec!["10.0.2.3".into()],
            mtu: None,
        }
    }

    #[test]
    fn settings_are_parsed_strictly() {
        let settings = parse(&identity("10.0.2.15/24")).unwrap();
        assert_eq!(
            (settings.address, settings.netmask),
            (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(255, 255, 255, 0))
        );
        assert_eq!(parse(&identity("10.0.2.15/32")).unwrap().netmask, Ipv4Addr::BROADCAST);
        for bad in ["10.0.2.15", "10.0.2.15/0", "10.0.2.15/33", "10.0.2/24", "::1/64", ""] {
            assert!(parse(&identity(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networkd_is_told_what_the_interface_was_given() {
        let text = networkd_file("52:54:00:12:34:56", &identity("10.0.2.15/24"));
        let expected = "# Written by shed-agent.\n[Match]\nMACAddress=52:54:00:12:34:56\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nDNS=10.0.2.3\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_devices_count_as_interfaces() {
        let sys = tempfile::tempdir().unwrap();
        for (name, device) in [("lo", false), ("enp0s3", true), ("docker0", false), ("eth0", true)] {
            fs::create_dir(sys.path().join(name)).unwrap();
            if device {
                fs::create_dir(sys.path().join(name).join("device")).unwrap();
            }
        }
        assert_eq!(first_interface(sys.path()).as_deref(), Some("enp0s3"));
    }

    #[test]
    fn a_resolv_conf_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let dns = [Ipv4Addr::new(10, 0, 2, 3)];
        write_resolv_conf(&path, &dns).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{MARK}\nnameserver 10.0.2.3\n"));
        write_resolv_conf(&path, &[Ipv4Addr::new(1, 1, 1, 1)]).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("1.1.1.1"));
        fs::write(&path, "nameserver 9.9.9.9\n").unwrap();
        write_resolv_conf(&path, &dns).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn a_link_that_leads_nowhere_yet_gets_a_file_and_one_that_has_its_own_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("resolv.conf"), dir.path().join("run/resolve/stub.conf"));
        std::os::unix::fs::symlink("run/resolve/stub.conf", &path).unwrap();
        let dns = [Ipv4Addr::new(10, 0, 2, 3)];
        write_resolv_conf(&path, &dns).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{MARK}\nnameserver 10.0.2.3\n"));
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        fs::write(&target, "nameserver 127.0.0.53\n").unwrap();
        write_resolv_conf(&path, &dns).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 127.0.0.53\n");
    }

    #[test]
    fn addresses_have_the_layout_the_kernel_wants() {
        let address = socket_address(Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(i32::from(address.sa_family), libc::AF_INET);
        assert_eq!(address.sa_data[2..6], [10, 0, 2, 15]);
    }
}
