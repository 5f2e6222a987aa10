//! What was written in a credential and the host has not taken yet; no I/O.
//!
//! One message at a time is with the host: until it has taken that, what is written meanwhile is gathered here, bounded. So
//! however much is written, little is said, and a host that was started again is told everything that the one before it did
//! not see to.

use std::{collections::BTreeSet, mem};

use shed_protocol::{CredentialChanged, credentials::MAX_CHANGED};

use super::json_length;

/// Most bytes of all names of one message, as they are sent. A frame has 1 MiB, for the messages of all credentials at times.
const MAX_BYTES: usize = 64 << 10;

/// Names of files, or that there are too many to name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Names {
    names: BTreeSet<String>,
    bytes: usize,
    more: bool,
}

impl Names {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.more
    }

    fn add(&mut self, name: String) {
        if self.names.contains(&name) {
            return;
        }
        let length = json_length(&name);
        if self.names.len() >= MAX_CHANGED || self.bytes + length > MAX_BYTES {
            self.more = true;
            return;
        }
        self.bytes += length;
        let _new = self.names.insert(name);
    }

    fn merge(&mut self, other: Self) {
        self.more |= other.more;
        other.names.into_iter().for_each(|name| self.add(name));
    }
}

/// One credential's.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Not told yet.
    changed: Names,
    /// With the host, by the number of the message.
    told: Option<(u64, Names)>,
}

impl Ledger {
    /// Notes that a file was written; nothing means any or all.
    pub(super) fn note(&mut self, name: Option<String>) {
        match name {
            Some(name) => self.changed.add(name),
            None => self.changed.more = true,
        }
    }

    /// Returns the next message, when there is one and the host has taken the one before.
    pub(super) fn tell(&mut self, credential: &str, serial: &mut u64) -> Option<CredentialChanged> {
        if self.told.is_some() || self.changed.is_empty() {
            return None;
        }
        *serial += 1;
        let names = mem::take(&mut self.changed);
        let message = CredentialChanged {
            credential: credential.to_owned(),
            files: names.names.iter().cloned().collect(),
            more: names.more,
            serial: *serial,
        };
        self.told = Some((*serial, names));
        Some(message)
    }

    /// Returns everything that was not taken as one message, for a host that may know nothing of what was told.
    pub(super) fn tell_again(&mut self, credential: &str, serial: &mut u64) -> Option<CredentialChanged> {
        if let Some((_, names)) = self.told.take() {
            self.changed.merge(names);
        }
        self.tell(credential, serial)
    }

    /// Notes that the host has taken a message.
    pub(super) fn taken(&mut self, serial: u64) {
        if self.told.as_ref().is_some_and(|(told, _)| *told == serial) {
            self.told = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(ledger: &mut Ledger, names: &[&str]) {
        names.iter().for_each(|name| ledger.note(Some((*name).to_owned())));
    }

    #[test]
    fn one_message_at_a_time_and_nothing_is_forgotten_before_it_is_taken() {
        let (mut ledger, mut serial) = (Ledger::default(), 0);
        assert_eq!(ledger.tell("c", &mut serial), None);
        note(&mut ledger, &["a", "b", "a"]);
        let first = ledger.tell("c", &mut serial).unwrap();
        assert_eq!((first.files.join(" ").as_str(), first.more, first.serial), ("a b", false, 1));
        note(&mut ledger, &["a", "x"]);
        assert_eq!(ledger.tell("c", &mut serial), None, "the first is not taken");
        ledger.taken(7);
        assert_eq!(ledger.tell("c", &mut serial), None, "that was another");
        ledger.taken(1);
        let second = ledger.tell("c", &mut serial).unwrap();
        assert_eq!(second.files, ["a", "x"]);
        note(&mut ledger, &["y"]);
        let again = ledger.tell_again("c", &mut serial).unwrap();
        assert_eq!((again.files.join(" ").as_str(), again.serial), ("a x y", 3));
        ledger.taken(2);
        assert_eq!(ledger.tell_again("c", &mut serial).unwrap().files.len(), 3);
        ledger.taken(serial);
        assert_eq!(ledger.tell_again("c", &mut serial), None);
    }

    #[test]
    fn names_count_as_they_are_sent() {
        for name in ["plain", "\u{1}\u{7f}\u{1f}", "\"\\\n\t\r\u{8}\u{c}", "é\u{2028}"] {
            assert_eq!(json_length(name), serde_json::to_string(name).unwrap().len(), "{name:?}");
        }
        let (mut ledger, mut serial) = (Ledger::default(), 0);
        for number in 0..MAX_CHANGED {
            ledger.note(Some(format!("{number}{}", "\u{1}".repeat(200))));
        }
        let message = ledger.tell("c", &mut serial).unwrap();
        assert!(message.more && serde_json::to_string(&message.files).unwrap().len() <= 2 * MAX_BYTES);
    }

    #[test]
    fn a_flood_is_told_as_more_and_takes_no_room() {
        let (mut ledger, mut serial) = (Ledger::default(), 0);
        for number in 0..100_000 {
            ledger.note(Some(number.to_string()));
        }
        let message = ledger.tell("c", &mut serial).unwrap();
        assert_eq!((message.files.len(), message.more), (MAX_CHANGED, true));
        ledger.taken(1);
        for number in 0..1000 {
            ledger.note(Some(format!("{number}{}", "x".repeat(4000))));
        }
        let message = ledger.tell("c", &mut serial).unwrap();
        assert!(message.more && message.files.iter().map(String::len).sum::<usize>() <= MAX_BYTES);
        ledger.taken(2);
        ledger.note(None);
        assert!(ledger.tell("c", &mut serial).unwrap().more);
    }
}
