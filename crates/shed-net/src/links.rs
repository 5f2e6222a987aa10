//! Interfaces, addresses and routes by netlink: the few operations that are needed, behind types of our own.
//!
//! A connection is opened for each operation and ends with it; nothing is kept that could be out of date.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures::{Stream, TryStreamExt as _};
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::{RouteAttribute, RouteMetric},
    },
};

use crate::{lease::Mac, mark::Mark, names::BridgeName, network::GuestNetwork};

/// Why the kernel did not do what it was asked by netlink.
#[derive(Debug, thiserror::Error)]
#[error("{what} failed")]
pub struct NetlinkError {
    what: &'static str,
    #[source]
    source: io::Error,
}

impl NetlinkError {
    pub(crate) fn new(what: &'static str, error: rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Self { what, source }
    }

    pub(crate) fn io(what: &'static str, source: io::Error) -> Self {
        Self { what, source }
    }

    /// Returns the number of the error, where the kernel gave one.
    pub(crate) fn code(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// What a device is, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bridge,
    /// TUN or TAP.
    Tun,
    Other,
}

/// One interface.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub kind: Kind,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub up: bool,
    /// Whether something is at its other end: for a TAP, a program that has it open.
    pub carrier: bool,
    /// The bridge, or the like, that it is a port of.
    pub controller: Option<u32>,
}

impl Link {
    fn read(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            kind: Kind::Other,
            mac: Vec::new(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: false,
            controller: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(InfoKind::Bridge) => link.kind = Kind::Bridge,
                            LinkInfo::Kind(InfoKind::Tun) => link.kind = Kind::Tun,
                            _of_no_interest => {}
                        }
                    }
                }
                _of_no_interest => {}
            }
        }
        link
    }

    /// Returns the mark that it bears, of whichever server.
    pub(crate) fn mark(&self) -> Option<Mark> {
        Mark::parse(self.alias.as_deref()?)
    }
}

/// An IPv4 address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    pub link: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
}

/// A connection to the kernel. It needs a tokio runtime.
#[derive(Debug, Clone)]
pub(crate) struct Netlink {
    handle: Handle,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _events) = rtnetlink::new_connection()
            .map_err(|source| NetlinkError::io("opening a netlink socket", source))?;
        // It ends with the last handle.
        let _task = tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Returns every interface.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let messages = collect("listing the interfaces", self.handle.link().get().execute()).await?;
        Ok(messages.iter().map(Link::read).collect())
    }

    /// Returns the interface of this name, if there is one.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        const WHAT: &str = "looking up an interface";
        let found = self.handle.link().get().match_name(name).execute();
        match collect(WHAT, found).await {
            Ok(messages) => Ok(messages.first().map(Link::read)),
            Err(error) if error.code() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge, down, with the hardware address that is to stay. Spanning tree is off, and a port passes frames at once.
    pub(crate) async fn add_bridge(&self, name: &BridgeName, mac: Mac) -> Result<(), NetlinkError> {
        let message =
            LinkBridge::new(name.as_str()).down().address(mac.bytes().to_vec()).forward_delay(0).build();
        done("making the bridge", self.handle.link().add(message).execute().await)
    }

    pub(crate) async fn mark(&self, index: u32, mark: &Mark) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).alias(mark.alias()).build();
        done("marking a device", self.handle.link().set(message).execute().await)
    }

    pub(crate) async fn set_mtu(&self, index: u32, mtu: u16) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu.into()).build();
        done("setting the MTU", self.handle.link().set(message).execute().await)
    }

    pub(crate) async fn up(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        done("setting a device up", self.handle.link().set(message).execute().await)
    }

    /// Makes a device a port of a bridge, and sets it up.
    pub(crate) async fn join(&self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).up().build();
        done("attaching a TAP to the bridge", self.handle.link().set(message).execute().await)
    }

    /// Deletes a device; one that has gone is no error. It takes the number of the device, so that another one that has got its
    /// name meanwhile is not hit.
    pub(crate) async fn delete(&self, index: u32) -> Result<(), NetlinkError> {
        match done("deleting a device", self.handle.link().del(index).execute().await) {
            Err(error) if error.code() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Returns every IPv4 address of every interface.
    pub(crate) async fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let messages = collect("listing the addresses", self.handle.address().get().execute()).await?;
        let mut found = Vec::new();
        for message in messages {
            let (link, prefix) = (message.header.index, message.header.prefix_len);
            // A point-to-point interface has its peer's address, too.
            found.extend(message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address))
                | AddressAttribute::Address(IpAddr::V4(address)) => {
                    Some(InterfaceAddress { link, address: *address, prefix })
                }
                _of_no_interest => None,
            }));
        }
        found.dedup();
        Ok(found)
    }

    /// Gives the bridge its address and takes all others of IPv4 from it.
    pub(crate) async fn set_address(&self, index: u32, network: &GuestNetwork) -> Result<(), NetlinkError> {
        let wanted = (network.gateway(), network.prefix());
        for message in collect("listing the addresses", self.handle.address().get().execute()).await? {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _of_no_interest => None,
            });
            let Some(address) = address.filter(|_address| message.header.index == index) else { continue };
            if (address, message.header.prefix_len) == wanted {
                continue;
            }
            let deleted = self.handle.address().del(message).execute().await;
            match done("removing an address of the bridge", deleted) {
                // The kernel takes all of a network with its first.
                Err(error) if error.code() == Some(libc::EADDRNOTAVAIL) => {}
                other => other?,
            }
        }
        let request = self.handle.address().add(index, network.gateway().into(), network.prefix());
        match done("giving the bridge its address", request.execute().await) {
            Err(error) if error.code() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Returns the MTU towards an address elsewhere: that of the route where it has one, or of its interface. Nothing when there
    /// is no way there. Nothing is sent.
    pub(crate) async fn mtu_towards(&self, address: Ipv4Addr) -> Result<Option<u32>, NetlinkError> {
        let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build();
        let answers = match collect("asking for the route", self.handle.route().get(question).execute()).await
        {
            Ok(answers) => answers,
            // Unreachable, or a route that says so in one of three ways (blackhole, prohibit, unreachable).
            Err(error) if error.code().is_some() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut device = None;
        for attribute in answers.iter().flat_map(|answer| &answer.attributes) {
            match attribute {
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::Metrics(metrics) => {
                    for metric in metrics {
                        if let RouteMetric::Mtu(mtu) = metric {
                            return Ok(Some(*mtu));
                        }
                    }
                }
                _of_no_interest => {}
            }
        }
        let Some(device) = device else { return Ok(None) };
        let found =
            collect("looking up an interface", self.handle.link().get().match_index(device).execute());
        Ok(found.await?.first().map(|message| Link::read(message).mtu))
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

fn done(what: &'static str, result: Result<(), rtnetlink::Error>) -> Result<(), NetlinkError> {
    result.map_err(|error| NetlinkError::new(what, error))
}

async fn collect<T>(
    what: &'static str,
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetlinkError> {
    answers.try_collect().await.map_err(|error| NetlinkError::new(what, error))
}
