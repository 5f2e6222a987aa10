//! The kernel command line: the few words of it that are for shed-init.

use std::path::PathBuf;

use crate::errors::DiskRole;

/// How a machine comes to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By powering off.
    #[default]
    PowerOff,
    /// By restarting, because the VMM has no power to switch off but ends instead of starting again. A guest that
    /// powers off there only halts, and its VMM runs for ever (Firecracker, FAQ).
    Restart,
}

/// What the command line asks of shed-init.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cmdline {
    /// `shed.init=PATH`: run this as PID 1, whatever the image holds. For tests.
    pub(crate) init: Option<PathBuf>,
    /// `shed.power-off=restart`: how this machine ends. The agent as PID 1 reads the same word.
    pub(crate) ending: Ending,
    /// `shed.disk.shed-image=SERIAL`: the image's disk has this serial number. For VMMs that choose the serial
    /// numbers of disks themselves, as Firecracker does.
    pub(crate) image_serial: Option<String>,
    /// `shed.disk.shed-upper=SERIAL`: the same for the shed's own disk.
    pub(crate) own_serial: Option<String>,
}

impl Cmdline {
    /// Reads the words for shed-init out of the text of /proc/cmdline; the last one of a kind wins.
    pub(crate) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for word in text.split_ascii_whitespace() {
            if let Some(path) = word.strip_prefix("shed.init=").filter(|path| path.starts_with('/')) {
                found.init = Some(PathBuf::from(path));
            }
            if word == "shed.power-off=restart" {
                found.ending = Ending::Restart;
            }
            for role in [DiskRole::Image, DiskRole::Own] {
                if let Some(serial) = serial_word(word, role) {
                    *found.named(role) = Some(serial.to_owned());
                }
            }
        }
        found
    }

    /// Returns the serial number by which a disk is found.
    pub(crate) fn serial(&self, role: DiskRole) -> &str {
        let named = match role {
            DiskRole::Image => &self.image_serial,
            DiskRole::Own => &self.own_serial,
        };
        named.as_deref().unwrap_or(role.serial())
    }

    fn named(&mut self, role: DiskRole) -> &mut Option<String> {
        match role {
            DiskRole::Image => &mut self.image_serial,
            DiskRole::Own => &mut self.own_serial,
        }
    }
}

/// Returns the serial number that a word gives to a disk; an empty one is none.
fn serial_word(word: &str, role: DiskRole) -> Option<&str> {
    let serial = word.strip_prefix("shed.disk.")?.strip_prefix(role.serial())?.strip_prefix('=')?;
    (!serial.is_empty()).then_some(serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_words_are_read_and_the_last_wins() {
        let parsed = Cmdline::parse(
            "quiet init=/bin/false shed.init=/a console=ttyS0 shed.init=/b shed.init=relative\n",
        );
        assert_eq!(parsed.init, Some(PathBuf::from("/b")));
        assert_eq!(Cmdline::parse(""), Cmdline::default());
    }

    #[test]
    fn a_machine_powers_off_unless_it_is_to_restart() {
        assert_eq!(Cmdline::parse("shed.power-off=restarts shed.power-off").ending, Ending::PowerOff);
        assert_eq!(Cmdline::parse("quiet shed.power-off=restart\n").ending, Ending::Restart);
    }

    #[test]
    fn a_disk_has_the_serial_it_is_given_or_its_own_name() {
        let parsed = Cmdline::parse("shed.disk.shed-upper=2065013 shed.disk.shed-image= shed.disk.other=1");
        assert_eq!(parsed.serial(DiskRole::Own), "2065013");
        assert_eq!(parsed.serial(DiskRole::Image), "shed-image");
        let parsed = Cmdline::parse("shed.disk.shed-image=1 shed.disk.shed-image-2=3 shed.disk.shed-image=2");
        assert_eq!(parsed.serial(DiskRole::Image), "2");
        assert_eq!(parsed.serial(DiskRole::Own), "shed-upper");
    }
}
