//! Signals by the names of SSH (RFC 4254 6.9, 6.10) and by the numbers of Linux guests.

use russh::Sig;

/// Linux' numbers, the same on every architecture that guests have (signal(7)). The first thirteen names are those of
/// the RFC; clients send others, too.
const SIGNALS: [(&str, i32); 31] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("KILL", 9),
    ("PIPE", 13),
    ("QUIT", 3),
    ("SEGV", 11),
    ("TERM", 15),
    ("USR1", 10),
    ("USR2", 12),
    ("TRAP", 5),
    ("BUS", 7),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// How many of them the RFC names.
const OF_THE_RFC: usize = 13;

/// Returns the number of a signal that a client names, with or without `SIG`.
pub(super) fn number(signal: &Sig) -> Option<i32> {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name.strip_prefix("SIG").unwrap_or(name),
    };
    SIGNALS.into_iter().find(|(known, _)| *known == name).map(|(_, number)| number)
}

/// Returns the name of a signal that ended a command. Names that are not the RFC's carry whose they are, as it asks.
pub(super) fn name(number: i32) -> Sig {
    let name = match SIGNALS.iter().position(|(_, known)| *known == number) {
        Some(index) if index < OF_THE_RFC => SIGNALS[index].0.to_owned(),
        Some(index) => format!("{}@shed", SIGNALS[index].0),
        None => format!("{number}@shed"),
    };
    // russh writes the name as it is, whichever variant holds it.
    Sig::Custom(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(number: i32) -> String {
        match name(number) {
            Sig::Custom(name) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_and_numbers_belong_together() {
        assert_eq!(number(&Sig::TERM), Some(15));
        assert_eq!(number(&Sig::INT), Some(2));
        for (given, expected) in [
            ("USR2", Some(12)),
            ("SIGUSR2", Some(12)),
            ("WINCH", Some(28)),
            ("NOPE", None),
            ("", None),
            ("9", None),
        ] {
            assert_eq!(number(&Sig::Custom(given.into())), expected, "{given}");
        }
        assert_eq!(
            (told(15), told(12), told(7), told(40)),
            ("TERM".into(), "USR2".into(), "BUS@shed".into(), "40@shed".into())
        );
    }

    #[test]
    fn each_number_of_the_first_31_has_one_name() {
        let mut numbers: Vec<i32> = SIGNALS.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=31).collect::<Vec<_>>());
    }
}
