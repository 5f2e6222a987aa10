//! What `shed-server doctor` says of the network. It looks and changes nothing.

use std::{fs, fs::OpenOptions, io};

use shed_types::{Finding, error_chain};

use crate::{
    capability,
    error::NftError,
    firewalls,
    host::{Host, described},
    links::{Link, Netlink, NetlinkError},
    nft::Nft,
    overlap::overlapping,
    resolver::dns_servers,
    rules, sysctl, tun,
};

/// Tables of the older iptables, which `nft` does not list. Only root may read it.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

fn warn(item: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding::warn(item, text).remedy(remedy)
}

fn fail(item: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding::fail(item, text).remedy(remedy)
}

impl Host {
    /// Looks at everything that the network of a shed needs.
    pub async fn check(&self) -> Vec<Finding> {
        let mut findings = vec![capability(), tap_driver(), forwarding()];
        findings.extend(self.check_devices().await);
        findings.extend(self.check_rules().await);
        findings.push(name_servers());
        findings
    }

    async fn check_devices(&self) -> Vec<Finding> {
        let look = async {
            let netlink = Netlink::open()?;
            Ok::<_, NetlinkError>((netlink.links().await?, netlink.addresses().await?))
        };
        let (links, addresses) = match look.await {
            Ok(found) => found,
            Err(error) => {
                let remedy = "allow the server AF_NETLINK sockets (RestrictAddressFamilies of its unit)";
                return vec![fail("bridge", error_chain(&error), remedy)];
            }
        };
        let network = self.settings().network();
        let others = overlapping(network, self.settings().bridge(), &links, &addresses);
        let overlap = if others.is_empty() {
            Finding::pass("other networks", format!("none overlaps with {network}"))
        } else {
            let text = format!("{} overlaps with {network}", others.join(", "));
            fail("other networks", text, "set another firecracker.bridge_cidr in server.yaml")
        };
        let bridge = links.iter().find(|link| link.name == self.settings().bridge().as_str());
        vec![self.check_bridge(bridge), overlap, packets(Self::mtu().await)]
    }

    fn check_bridge(&self, bridge: Option<&Link>) -> Finding {
        const ITEM: &str = "bridge";
        let name = self.settings().bridge();
        match bridge {
            None => {
                Finding::pass(ITEM, format!("{name} is not there yet; the server makes it when it starts"))
            }
            Some(link) if !self.is_our_bridge(link) => fail(
                ITEM,
                format!("{name} was not made by this server: {}", described(link)),
                format!(
                    "`ip link delete {name}` when nothing uses it, or set another firecracker.bridge_name"
                ),
            ),
            Some(link) if !link.up => {
                warn(ITEM, format!("{name} is down"), "restart the server, which sets it up")
            }
            Some(link) => {
                let network = self.settings().network();
                Finding::pass(ITEM, format!("{name} is up ({network}, packets of {} bytes)", link.mtu))
            }
        }
    }

    async fn check_rules(&self) -> Vec<Finding> {
        const ITEM: &str = "nft";
        let nft = match Nft::find() {
            Ok(nft) => nft,
            Err(error) => {
                let remedy = "apt-get install nftables, or what your distribution has for it";
                return vec![fail(ITEM, error.to_string(), remedy)];
            }
        };
        let version = match nft.version().await {
            Ok(version) => Finding::pass(ITEM, format!("{} ({version})", nft.program().display())),
            Err(error) => fail(ITEM, error_chain(&error), "reinstall the package nftables"),
        };
        vec![version, self.check_own_rules(&nft).await, self.check_firewalls(&nft).await]
    }

    /// Looks whether our own rules are there: whoever flushes all rules takes them, too.
    async fn check_own_rules(&self, nft: &Nft) -> Finding {
        const ITEM: &str = "rules";
        let look = async {
            let taps = self.list().await.map_err(|error| error_chain(&error))?;
            let netlink = Netlink::open().map_err(|error| error_chain(&error))?;
            let bridge =
                netlink.link(self.settings().bridge().as_str()).await.map_err(|error| error_chain(&error))?;
            let chains = nft.list(&["chains"]).await.map_err(|error| error_chain(&error))?;
            Ok::<_, String>((taps, bridge.is_some_and(|link| self.is_our_bridge(&link)), chains))
        };
        let (taps, is_ours, chains) = match look.await {
            Ok(found) => found,
            Err(text) => return warn(ITEM, text, "run this again as root to have them looked at"),
        };
        if !is_ours {
            return Finding::pass(ITEM, "there are none without a bridge");
        }
        let of_taps = rules::chains_of_taps(self.settings(), &chains);
        let free: Vec<&str> = taps
            .iter()
            .map(|tap| tap.tap.as_str())
            .filter(|tap| !of_taps.iter().any(|chain| chain == tap))
            .collect();
        if rules::chains_of_bridge(self.settings(), &chains).is_empty() || !free.is_empty() {
            let text = match free.as_slice() {
                [] => "the rules of the bridge are gone, and with them the guests' way out".to_owned(),
                free => {
                    format!("the rules of {} are gone: these guests are held to no address", free.join(", "))
                }
            };
            return fail(
                ITEM,
                text,
                "restart the server, which brings them back, and see who flushes all rules",
            );
        }
        Finding::pass(ITEM, format!("the bridge and {} TAPs have theirs", taps.len()))
    }

    /// Looks for rules of others that drop what the bridge forwards: an `accept` of ours does not end their chains.
    async fn check_firewalls(&self, nft: &Nft) -> Finding {
        const ITEM: &str = "other firewalls";
        let bridge = self.settings().bridge().as_str();
        let mut dropping = Vec::new();
        let look = async {
            for chain in firewalls::dropping(&nft.list(&["chains"]).await?) {
                let table = nft.list(&["table", &chain.family, &chain.table]).await?;
                if !firewalls::lets_through(&table, bridge) {
                    let remedy = firewalls::remedy(&table, bridge);
                    dropping.push((chain, remedy));
                }
            }
            Ok::<_, NftError>(())
        };
        if let Err(error) = look.await {
            return warn(ITEM, error_chain(&error), "run this again as root to have them looked at");
        }
        if let Some((_first, remedy)) = dropping.first() {
            let chains: Vec<String> = dropping.iter().map(|(chain, _remedy)| chain.to_string()).collect();
            let text = format!(
                "{} drops what is forwarded unless it is told otherwise, and does not name {bridge}: guests do not get out",
                chains.join(", ")
            );
            return warn(ITEM, text, remedy.clone());
        }
        let legacy =
            fs::read_to_string(LEGACY_TABLES).is_ok_and(|names| names.lines().any(|name| name == "filter"));
        if legacy {
            let text = "there are rules of the older iptables, which cannot be looked at from here";
            let remedy = format!(
                "see `iptables-legacy -S FORWARD`; with policy DROP: `iptables-legacy -I FORWARD -i {bridge} -j ACCEPT` and `iptables-legacy -I FORWARD -o {bridge} -j ACCEPT`"
            );
            return warn(ITEM, text, remedy);
        }
        Finding::pass(ITEM, "none drops what the bridge forwards")
    }
}

fn capability() -> Finding {
    const ITEM: &str = "capability";
    if capability::present() {
        return Finding::pass(ITEM, "CAP_NET_ADMIN is there");
    }
    fail(
        ITEM,
        "CAP_NET_ADMIN is missing, so no bridge, TAP or rule can be made",
        "sudo setcap cap_net_admin+ep \"$(command -v shed-server)\", or AmbientCapabilities=CAP_NET_ADMIN in its unit",
    )
}

fn tap_driver() -> Finding {
    const ITEM: &str = "TAP driver";
    let device = tun::DEVICE;
    let Err(error) = OpenOptions::new().read(true).write(true).open(device) else {
        return Finding::pass(ITEM, format!("{device} can be opened"));
    };
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("sudo chmod 0666 {device}: it is the capability that matters")
        }
        _other => "sudo modprobe tun".to_owned(),
    };
    fail(ITEM, format!("{device} cannot be opened: {error}"), remedy)
}

fn forwarding() -> Finding {
    const ITEM: &str = "forwarding";
    match sysctl::is_on(sysctl::IP_FORWARD) {
        Ok(true) => Finding::pass(ITEM, "the host forwards IPv4"),
        Ok(false) => warn(
            ITEM,
            "the host does not forward IPv4; the server turns it on when it starts, where it may",
            "sudo sysctl -w net.ipv4.ip_forward=1",
        ),
        Err(error) => fail(ITEM, format!("{}: {error}", sysctl::IP_FORWARD), "mount /proc"),
    }
}

fn packets(mtu: Result<u16, crate::MtuError>) -> Finding {
    const ITEM: &str = "MTU";
    match mtu {
        Ok(mtu) => Finding::pass(ITEM, format!("packets of {mtu} bytes leave this host whole")),
        Err(error) => {
            warn(ITEM, error_chain(&error), "look at `ip route get 1.1.1.1`; 1500 is taken meanwhile")
        }
    }
}

fn name_servers() -> Finding {
    const ITEM: &str = "name servers";
    match dns_servers() {
        Ok(servers) => {
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            Finding::pass(ITEM, format!("guests ask {}", servers.join(", ")))
        }
        Err(error) => warn(ITEM, error.to_string(), "set firecracker.dns in server.yaml"),
    }
}
