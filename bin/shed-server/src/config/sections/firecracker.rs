//! The `firecracker:` section (spec K.1).

use std::{net::Ipv4Addr, ops::RangeInclusive, str::FromStr};

use serde_saphyr::Spanned;
use shed_net::{NetSettings, ServerId};
use shed_types::BackendKind;

use super::{
    super::{
        LoadConfigError, Surroundings,
        check::Source,
        file::{FirecrackerFile, Value},
    },
    FirecrackerSection, JailerChoice,
    common::{check_ports, common},
};

/// Memory of a shed that names none, in MiB (spec K.1).
const MEMORY_MB: i64 = 4096;

/// The vsock context id of the first machine where none is named, and the allowed ones (spec K.1). Below are those of the
/// hypervisor and the host (man 7 vsock).
const FIRST_CID: i64 = 100;
const FIRST_CIDS: RangeInclusive<i64> = 3..=65535;

/// The user of the first jailed machine where none is named: nobody gives out the numbers from 65536 to 99999 (systemd's
/// "Users, Groups, UIDs and GIDs on systemd Systems"). As many follow as there are leases.
const JAIL_UID_BASE: i64 = 70_000;
const JAIL_UID_BASES: RangeInclusive<i64> = 1000..=4_294_900_000;

/// The network where none is named (spec K.1).
const BRIDGE_NAME: &str = "shed-br0";
const BRIDGE_CIDR: &str = "172.30.0.1/24";
const TAP_PREFIX: &str = "shed-tap";

/// Most name servers that a resolver takes (resolv.conf(5), MAXNS).
const NAME_SERVERS: usize = 3;

/// Checks the section.
pub(in super::super) fn firecracker(
    mut raw: FirecrackerFile,
    source: Source<'_>,
    surroundings: &Surroundings,
) -> Result<FirecrackerSection, LoadConfigError> {
    let common = common(raw.take_common(), BackendKind::Firecracker, MEMORY_MB, source, surroundings)?;
    let seccomp =
        source.word(raw.seccomp.as_ref(), "firecracker.seccomp", &[("on", true), ("off", false)])?;
    let choices = [JailerChoice::Auto, JailerChoice::Always, JailerChoice::Never];
    let jailer = source.word(
        raw.jailer.as_ref(),
        "firecracker.jailer",
        &choices.map(|choice| (choice.as_str(), choice)),
    )?;
    let jail_dir = source.path(raw.jail_dir.as_ref(), "firecracker.jail_dir", surroundings)?;
    let ports = [
        ("firecracker.console_port", &raw.console_port),
        ("firecracker.health_port", &raw.health_port),
        ("firecracker.notify_port", &raw.notify_port),
    ];
    check_ports(&ports, source)?;
    let section = FirecrackerSection {
        jailer: jailer.unwrap_or_default(),
        jailer_path: source.path(raw.jailer_path.as_ref(), "firecracker.jailer_path", surroundings)?,
        // Beside the disks, because a disk has a link in its jail.
        jail_dir: jail_dir.unwrap_or_else(|| common.instance_dir.with_file_name("jails")),
        jail_uid_base: number(
            raw.jail_uid_base.as_ref(),
            "firecracker.jail_uid_base",
            JAIL_UID_BASE,
            JAIL_UID_BASES,
            source,
        )?,
        common,
        binary: source.path(raw.binary.as_ref(), "firecracker.binary", surroundings)?,
        seccomp: seccomp.unwrap_or(true),
        vsock_base_cid: number(
            raw.vsock_base_cid.as_ref(),
            "firecracker.vsock_base_cid",
            FIRST_CID,
            FIRST_CIDS,
            source,
        )?,
        bridge_name: parsed(&raw.bridge_name, "firecracker.bridge_name", BRIDGE_NAME, source)?,
        bridge_cidr: parsed(&raw.bridge_cidr, "firecracker.bridge_cidr", BRIDGE_CIDR, source)?,
        tap_prefix: parsed(&raw.tap_prefix, "firecracker.tap_prefix", TAP_PREFIX, source)?,
        dns: dns(raw.dns.unwrap_or_default(), source)?,
    };
    let together = NetSettings::new(
        section.bridge_name.clone(),
        section.bridge_cidr,
        section.tap_prefix.clone(),
        ServerId::of_directory(section.common.instance_dir.as_str()),
        [],
    );
    match together {
        Ok(_) => Ok(section),
        Err(error) => {
            let place = raw.bridge_name.or(raw.tap_prefix).map(|value| value.referenced);
            Err(source.error(place, "firecracker.bridge_name", error.to_string()))
        }
    }
}

fn number(
    value: Option<&Spanned<i64>>,
    key: &str,
    default: i64,
    allowed: RangeInclusive<i64>,
    source: Source<'_>,
) -> Result<u32, LoadConfigError> {
    let number = value.map_or(default, |value| value.value);
    u32::try_from(number).ok().filter(|_| allowed.contains(&number)).ok_or_else(|| {
        let problem = format!("must be between {} and {}; got {number}", allowed.start(), allowed.end());
        source.error(value.map(|value| value.referenced), key, problem)
    })
}

fn dns(servers: Vec<Spanned<String>>, source: Source<'_>) -> Result<Vec<Ipv4Addr>, LoadConfigError> {
    const KEY: &str = "firecracker.dns";
    if let Some(beyond) = servers.get(NAME_SERVERS) {
        let problem = format!("a guest takes {NAME_SERVERS} name servers at most");
        return Err(source.bad(beyond, KEY, problem));
    }
    let address = |value: Spanned<String>| match value.value.parse::<Ipv4Addr>() {
        Ok(address) if !address.is_loopback() && !address.is_unspecified() => Ok(address),
        Ok(address) => {
            let problem = format!("{address} is the guest itself in a guest; name one that guests can reach");
            Err(source.bad(&value, KEY, problem))
        }
        Err(_) => {
            let problem =
                format!("{:?} is not an IPv4 address; guests reach name servers by IPv4", value.value);
            Err(source.bad(&value, KEY, problem))
        }
    };
    servers.into_iter().map(address).collect()
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(
    value: &Value<String>,
    key: &str,
    default: &str,
    source: Source<'_>,
) -> Result<T, LoadConfigError> {
    let text = value.as_ref().map_or(default, |value| &value.value);
    text.parse().map_err(|error: T::Err| {
        source.error(value.as_ref().map(|value| value.referenced), key, error.to_string())
    })
}
