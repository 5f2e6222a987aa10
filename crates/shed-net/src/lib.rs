//! The host's end of the network of Firecracker machines: a bridge, a TAP a shed, addresses, rules.
//!
//! The firecracker backend calls it, `shed-server setup` and `doctor` do, and nobody else. What is to be is decided without
//! I/O ([`NetSettings`], [`choose`], the rules); [`Host`] makes it so, by netlink, /dev/net/tun and `nft`. It keeps no state:
//! every device it makes bears a mark of the server that made it, and every rule lies in a table that is named after the
//! bridge. So whoever is killed, the next start sees what is there.
//!
//! A server calls [`Host::ensure_bridge`] when it starts, then [`Host::list`], and [`Host::delete_tap`] for what no record names.
//! A start of a shed without a lease asks for one ([`Host::lease`]), records it, and calls [`Host::create_tap`]; the lease of a record
//! comes from the TAP's name ([`Lease::of_tap`]). A stop may delete the TAP, since the next start makes it anew; a delete does.
//!
//! It needs CAP_NET_ADMIN and not root. It refuses to touch a device that does not bear this server's mark, and rules in
//! tables of others. What a configuration says of it can be read everywhere; the rest is for Linux.

#[cfg(target_os = "linux")]
mod capability;
#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod error;
#[cfg(target_os = "linux")]
mod firewalls;
#[cfg(target_os = "linux")]
mod host;
mod lease;
#[cfg(target_os = "linux")]
mod links;
#[cfg(target_os = "linux")]
mod mark;
mod names;
#[cfg(target_os = "linux")]
mod neighbours;
mod network;
#[cfg(target_os = "linux")]
mod nft;
#[cfg(target_os = "linux")]
mod overlap;
#[cfg(target_os = "linux")]
mod resolver;
#[cfg(target_os = "linux")]
mod rules;
mod settings;
#[cfg(target_os = "linux")]
mod state;
#[cfg(target_os = "linux")]
mod sysctl;
#[cfg(target_os = "linux")]
mod taps;
#[cfg(target_os = "linux")]
mod tun;

#[cfg(target_os = "linux")]
pub use capability::may_administer;
#[cfg(target_os = "linux")]
pub use error::{BridgeError, ListError, LookError, MtuError, NftError, RemoveError, TapError};
#[cfg(target_os = "linux")]
pub use host::{Host, HostTap};
pub use lease::{Exhausted, Lease, LeaseIndex, Mac, ParseTapError, choose};
#[cfg(target_os = "linux")]
pub use links::NetlinkError;
pub use names::{BridgeName, ParseNetNameError, ServerId, TapName, TapPrefix};
pub use network::{GuestNetwork, ParseNetworkError};
#[cfg(target_os = "linux")]
pub use resolver::{DnsError, dns_servers};
pub use settings::{NetSettings, SettingsError};
#[cfg(target_os = "linux")]
pub use state::HostState;
#[cfg(target_os = "linux")]
pub use tun::TapOwner;
