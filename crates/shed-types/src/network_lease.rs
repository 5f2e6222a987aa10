//! What a shed has on its host's network.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// What a machine has on the host's network; part of its shed's record, from before it is taken until the shed is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLease {
    /// Numbers the guests of a server, from 0.
    pub index: u16,
    /// The host's interface that leads to the guest.
    pub tap_device: String,
    /// The guest's address.
    pub ip_address: Ipv4Addr,
}

impl NetworkLease {
    /// Returns the address of the guest's network card: one of those that nobody else is given (the second bit of its first
    /// byte, IEEE 802), with the lease's number (spec C.2).
    #[must_use]
    pub fn mac(&self) -> String {
        let [high, low] = self.index.to_be_bytes();
        format!("02:fc:00:00:{high:02x}:{low:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_card_of_its_own() {
        let mac = |index| {
            NetworkLease { index, tap_device: "shed-tap0".into(), ip_address: [172, 30, 0, 2].into() }.mac()
        };
        assert_eq!((mac(0), mac(1023)), ("02:fc:00:00:00:00".to_owned(), "02:fc:00:00:03:ff".to_owned()));
    }
}
