//! Which TAP and which address a shed has. Policy only: it looks at nothing itself.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use crate::{
    names::{TapName, shortened},
    settings::NetSettings,
};

/// Indices end before this number (spec C.2).
const INDICES: u16 = 1024;

/// The number of a shed on its bridge, 0 to 1023 (spec C.2). TAP, address and hardware address follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseIndex(u16);

impl LeaseIndex {
    /// Returns the index of this number, if it is one.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < INDICES { Some(Self(number)) } else { None }
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for LeaseIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Makes one of its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a shed has of the host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    index: LeaseIndex,
    tap: TapName,
    address: Ipv4Addr,
}

/// Says that every address is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "all {places} addresses of the network {network} are taken: {known} by sheds, {devices} by devices of others with a name of ours, {answering} by others who answer to them; delete sheds, or set another bridge_cidr"
)]
pub struct Exhausted {
    /// How many there are.
    pub places: u32,
    network: String,
    known: usize,
    devices: usize,
    answering: usize,
}

/// Says why a TAP's name in a record is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTapError {
    #[error("{name:?} is no TAP of this server: it is {prefix} and a number from 0 to 1023")]
    Name { name: String, prefix: String },
    #[error(
        "the TAP {tap} has no address in {network}; was bridge_cidr changed? Stop the shed and start it again"
    )]
    Outside { tap: String, network: String },
}

impl Lease {
    /// Returns the lease of an index: its address is that many and one after the bridge's (spec C.2). Nothing when that lies
    /// outside of the network.
    #[must_use]
    pub fn of(settings: &NetSettings, index: LeaseIndex) -> Option<Self> {
        if u32::from(index.number()) >= places(settings) {
            return None;
        }
        let bits = settings.network().gateway().to_bits() + u32::from(index.number()) + 1;
        Some(Self { index, tap: settings.tap_prefix().tap(index), address: Ipv4Addr::from_bits(bits) })
    }

    /// Returns the lease of a TAP's name, as it is in a record.
    ///
    /// # Errors
    /// When the name is not one that this server gives, or has no address in its network.
    pub fn of_tap(settings: &NetSettings, name: &str) -> Result<Self, ParseTapError> {
        let index = settings.tap_prefix().index_of(name).ok_or_else(|| ParseTapError::Name {
            name: shortened(name),
            prefix: settings.tap_prefix().to_string(),
        })?;
        Self::of(settings, index).ok_or_else(|| ParseTapError::Outside {
            tap: name.to_owned(),
            network: settings.network().to_string(),
        })
    }

    /// Returns its number.
    #[must_use]
    pub const fn index(&self) -> LeaseIndex {
        self.index
    }

    /// Returns the name of its TAP.
    #[must_use]
    pub const fn tap(&self) -> &TapName {
        &self.tap
    }

    /// Returns the guest's address.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Returns the guest's hardware address: `02:FC:00:00:XX:XX` (spec C.2), which is locally administered.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        let [high, low] = self.index.number().to_be_bytes();
        Mac([0x02, 0xfc, 0, 0, high, low])
    }
}

/// Chooses the lowest free lease: one whose index no shed has (`taken`), whose TAP's name no device has (`devices`), and whose
/// address nobody answers to (`answering`).
///
/// # Errors
/// When there is none.
pub fn choose(
    settings: &NetSettings,
    taken: &BTreeSet<LeaseIndex>,
    devices: &BTreeSet<String>,
    answering: &BTreeSet<Ipv4Addr>,
) -> Result<Lease, Exhausted> {
    let leases = || (0..INDICES).filter_map(LeaseIndex::new).map_while(|index| Lease::of(settings, index));
    let (mut by_devices, mut by_others) = (0, 0);
    for lease in leases().filter(|lease| !taken.contains(&lease.index)) {
        if devices.contains(lease.tap.as_str()) {
            by_devices += 1;
        } else if answering.contains(&lease.address) {
            by_others += 1;
        } else {
            return Ok(lease);
        }
    }
    Err(Exhausted {
        places: places(settings),
        network: settings.network().to_string(),
        known: leases().filter(|lease| taken.contains(&lease.index)).count(),
        devices: by_devices,
        answering: by_others,
    })
}

/// How many leases there are.
fn places(settings: &NetSettings) -> u32 {
    settings.network().room().min(INDICES.into())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;
    use crate::settings::tests::settings;

    fn index(number: u16) -> LeaseIndex {
        LeaseIndex::new(number).unwrap()
    }

    #[test]
    fn the_first_lease_follows_the_bridge() {
        let lease =
            choose(&settings("172.30.0.1/24"), &BTreeSet::new(), &BTreeSet::new(), &BTreeSet::new()).unwrap();
        assert_eq!(lease.tap().as_str(), "shed-tap0");
        assert_eq!(lease.address(), Ipv4Addr::new(172, 30, 0, 2));
        assert_eq!(lease.mac().to_string(), "02:fc:00:00:00:00");
        let last = Lease::of(&settings("172.16.0.1/12"), index(1023)).unwrap();
        assert_eq!(last.mac().to_string(), "02:fc:00:00:03:ff");
        assert_eq!(last.address(), Ipv4Addr::new(172, 16, 4, 1));
    }

    #[test]
    fn what_is_taken_in_any_way_is_passed_over() {
        let chosen = choose(
            &settings("172.30.0.1/24"),
            &BTreeSet::from([index(0), index(3)]),
            &BTreeSet::from(["shed-tap1".to_owned(), "eth0".to_owned()]),
            &BTreeSet::from([Ipv4Addr::new(172, 30, 0, 4)]),
        );
        assert_eq!(chosen.unwrap().index(), index(4));
    }

    #[test]
    fn a_full_network_says_how_many_there_are() {
        let error = choose(
            &settings("172.30.0.1/29"),
            &BTreeSet::from([index(0), index(1), index(2), index(900)]),
            &BTreeSet::from(["shed-tap3".to_owned()]),
            &BTreeSet::from([Ipv4Addr::new(172, 30, 0, 6)]),
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("all 5 addresses") && text.contains("3 by sheds"), "{text}");
    }

    #[test]
    fn a_record_with_a_hostile_name_has_no_lease() {
        let settings = settings("172.30.0.1/24");
        for name in ["../../etc", "shed-tap-1", "shed-tap1/../x", "shed-tap12345678", "", "shed-tap\n0"] {
            assert!(matches!(Lease::of_tap(&settings, name), Err(ParseTapError::Name { .. })), "{name:?}");
        }
        assert!(matches!(Lease::of_tap(&settings, "shed-tap253"), Err(ParseTapError::Outside { .. })));
        assert_eq!(
            Lease::of_tap(&settings, "shed-tap252").unwrap().address(),
            Ipv4Addr::new(172, 30, 0, 254)
        );
    }

    proptest! {
        #[test]
        fn a_lease_is_free_lowest_and_within(
            last in 1_u32..250,
            prefix in 20_u8..=30,
            taken in btree_set(0_u16..1024, 0..40),
            devices in btree_set(0_u16..300, 0..40),
            answering in btree_set(0_u32..300, 0..40),
        ) {
            let gateway = 0xac1e_0000 + last;
            let Ok(network) = format!("{}/{prefix}", Ipv4Addr::from_bits(gateway)).parse::<crate::GuestNetwork>() else {
                return Ok(());
            };
            let settings = settings(&network.to_string());
            let taken: BTreeSet<_> = taken.into_iter().filter_map(LeaseIndex::new).collect();
            let devices: BTreeSet<_> = devices.into_iter().map(|n| format!("shed-tap{n}")).collect();
            let answering: BTreeSet<_> = answering.into_iter().map(|n| Ipv4Addr::from_bits(gateway + n)).collect();
            let free = |lease: &Lease| {
                !taken.contains(&lease.index())
                    && !devices.contains(lease.tap().as_str())
                    && !answering.contains(&lease.address())
            };
            let all: Vec<_> = (0..1024).filter_map(|n| Lease::of(&settings, index(n))).collect();
            for lease in &all {
                let special = [network.network(), network.broadcast(), network.gateway()];
                prop_assert!(network.contains(lease.address()) && !special.contains(&lease.address()));
                prop_assert_eq!(&Lease::of_tap(&settings, lease.tap().as_str()).unwrap(), lease);
            }
            match choose(&settings, &taken, &devices, &answering) {
                Ok(lease) => prop_assert_eq!(Some(&lease), all.iter().find(|lease| free(lease))),
                Err(error) => {
                    prop_assert!(!all.iter().any(free));
                    prop_assert_eq!(error.places as usize, all.len());
                }
            }
        }
    }
}
