//! Who answers on the bridge: an address that somebody has already must not be given to a shed.
//!
//! The kernel asks, by ARP, and tells in its table of neighbours what came back. Guests of ours need not be asked, because they are
//! held to their leases; so with nothing but our TAPs on the bridge there is nobody to wait for.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use futures::StreamExt as _;
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};
use tokio::time::timeout;

use crate::links::{Netlink, NetlinkError};

/// How long an answer is waited for: as long as a host that gives itself an address waits for the last one (RFC 5227 §1.1:
/// ANNOUNCE_WAIT is 2 s, PROBE_MIN 1 s). On one host it comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns those of `addresses` that somebody on the network of interface `device` answers to.
pub(crate) async fn answering(
    device: u32,
    addresses: &BTreeSet<Ipv4Addr>,
) -> Result<BTreeSet<Ipv4Addr>, NetlinkError> {
    if addresses.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (connection, _handle, mut events) = rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh])
        .map_err(|source| NetlinkError::io("listening to the table of neighbours", source))?;
    let listener = tokio::spawn(connection);
    let netlink = Netlink::open()?;
    for address in addresses {
        // What was known before may not be true any more.
        forget(&netlink, device, *address).await?;
        ask(&netlink, device, *address).await?;
    }
    let mut undecided = addresses.clone();
    let mut found = BTreeSet::new();
    let listen = async {
        while !undecided.is_empty() {
            let Some((event, _from)) = events.next().await else { break };
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour)) = event.payload
            else {
                continue;
            };
            let Some(address) = destination(&neighbour) else { continue };
            if neighbour.header.ifindex != device || !addresses.contains(&address) {
                continue;
            }
            match neighbour.header.state {
                NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
                | NeighbourState::Noarp => {
                    undecided.remove(&address);
                    found.insert(address);
                }
                NeighbourState::Failed => {
                    undecided.remove(&address);
                }
                _still_asking => {}
            }
        }
    };
    // The time is up: who has not answered is not there.
    let _silence = timeout(PATIENCE, listen).await;
    listener.abort();
    for address in addresses {
        forget(&netlink, device, *address).await?;
    }
    Ok(found)
}

/// Has the kernel ask who has an address, as it does when there is something to send (linux/neighbour.h: NTF_USE).
async fn ask(netlink: &Netlink, device: u32, address: Ipv4Addr) -> Result<(), NetlinkError> {
    let request = netlink
        .handle()
        .neighbours()
        .add(device, address.into())
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    request.execute().await.map_err(|error| NetlinkError::new("asking who has an address", error))
}

async fn forget(netlink: &Netlink, device: u32, address: Ipv4Addr) -> Result<(), NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = device;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    let result = netlink.handle().neighbours().del(message).execute().await;
    match result.map_err(|error| NetlinkError::new("forgetting a neighbour", error)) {
        Err(error) if error.code() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn destination(message: &NeighbourMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _of_no_interest => None,
    })
}
