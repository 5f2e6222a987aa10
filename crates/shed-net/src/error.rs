//! What can go wrong, one type an operation. Display never includes the source.

use std::io;

use shed_types::ShedName;

use crate::{
    lease::Exhausted,
    links::NetlinkError,
    names::{BridgeName, ServerId},
};

/// Why rules could not be applied or read.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error(
        "`nft` was not found in PATH, /usr/sbin, /sbin or /usr/local/sbin; install the package `nftables` (scripts/setup.sh does)"
    )]
    Missing,
    #[error("`{program}` could not be run")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "`{program}` refused: {output} (it needs CAP_NET_ADMIN, and a kernel with nf_tables, nf_nat and the ingress hook)"
    )]
    Refused { program: String, output: String },
    #[error("what `nft` takes or prints is not JSON as it is documented")]
    Json {
        #[source]
        source: serde_json::Error,
    },
}

/// Why the bridge is not ready.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    #[error(
        "the device {bridge} is there and was not made by this server ({found}); delete it when nothing uses it (`ip link delete {bridge}`), or set another firecracker.bridge_name"
    )]
    NotOurs { bridge: BridgeName, found: String },
    #[error(
        "the network {network} of the bridge {bridge} overlaps with {others}; set another firecracker.bridge_cidr"
    )]
    Overlap { bridge: BridgeName, network: String, others: String },
    #[error(
        "forwarding of IPv4 is off and could not be turned on; run `sudo sysctl -w net.ipv4.ip_forward=1`"
    )]
    Forwarding {
        #[source]
        source: io::Error,
    },
    #[error("the bridge {bridge} could not be set up")]
    Netlink {
        bridge: BridgeName,
        #[source]
        source: NetlinkError,
    },
    #[error("the rules of the bridge {bridge} could not be applied")]
    Rules {
        bridge: BridgeName,
        #[source]
        source: NftError,
    },
}

/// Why a shed has no TAP, or still has one.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    #[error("the bridge {bridge} is not there, or is not this server's; restart the server, which makes it")]
    NoBridge { bridge: BridgeName },
    #[error(
        "the device {tap} was not made by this server and is left alone; delete it, or set another firecracker.tap_prefix"
    )]
    NotOurs { tap: String },
    #[error("the TAP {tap} belongs to shed `{other}`, not to `{shed}`, and is left alone")]
    OtherShed { tap: String, shed: ShedName, other: ShedName },
    #[error("the TAP {tap} of shed `{shed}` is in use: a machine runs on it")]
    InUse { tap: String, shed: ShedName },
    #[error(
        "the TAP {tap} of shed `{shed}` could not be made (/dev/net/tun; the server needs CAP_NET_ADMIN)"
    )]
    Make {
        tap: String,
        shed: ShedName,
        #[source]
        source: io::Error,
    },
    #[error("the TAP {tap} of shed `{shed}` could not be set up or deleted")]
    Netlink {
        tap: String,
        shed: ShedName,
        #[source]
        source: NetlinkError,
    },
    #[error("the rules of the TAP {tap} of shed `{shed}` could not be applied")]
    Rules {
        tap: String,
        shed: ShedName,
        #[source]
        source: NftError,
    },
    #[error("the devices of this host could not be listed, which a lease needs")]
    Look(#[source] NetlinkError),
}

/// Why the TAPs could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("the TAPs of server `{server}` could not be listed")]
pub struct ListError {
    pub server: ServerId,
    #[source]
    pub source: NetlinkError,
}

/// Why the largest packet is not known.
#[derive(Debug, thiserror::Error)]
#[error("the interface of the default route could not be looked up")]
pub struct MtuError(#[source] pub NetlinkError);

/// Why something of ours may be left.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("the devices of the bridge {bridge} could not be removed")]
    Netlink {
        bridge: BridgeName,
        #[source]
        source: NetlinkError,
    },
    #[error("the rules of the bridge {bridge} could not be removed")]
    Rules {
        bridge: BridgeName,
        #[source]
        source: NftError,
    },
}

/// Why it is not known how much of the network is there.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("the devices of this host could not be listed")]
    Netlink(#[from] NetlinkError),
    #[error("the rules of this host could not be listed")]
    Rules(#[from] NftError),
}
