//! How the host reaches the agent: over a virtio-serial port, one pipe for everything with a mux in it, or over vsock, where
//! each port is accepted by itself. The backend that started the machine says which on the kernel's command line.

mod virtio;
mod vsock;

use std::fs;

pub(crate) use virtio::VirtioPort;
pub(crate) use vsock::{VsockPorts, VsockStream, tell_reboot};

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// A virtio-serial port.
    Serial,
    /// A vsock device.
    Vsock,
}

impl Link {
    /// Reads which one this boot has.
    pub(crate) fn of_this_boot() -> Self {
        Self::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// The last word `shed.link=` wins; without one it is the serial port.
    fn parse(cmdline: &str) -> Self {
        let word =
            cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("shed.link=")).next_back();
        if word == Some("vsock") { Self::Vsock } else { Self::Serial }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_word_asks_for_vsock() {
        assert_eq!(Link::parse("console=ttyS0 shed.link=vsock quiet\n"), Link::Vsock);
        for cmdline in
            ["", "console=ttyS0", "shed.link=vsock2", "xshed.link=vsock", "shed.link=vsock shed.link=serial"]
        {
            assert_eq!(Link::parse(cmdline), Link::Serial, "{cmdline}");
        }
    }
}
