//! Durations as Go writes them (`30s`, `1m30s`, `1.5h`), so that configurations read the same as they always did.

use std::time::Duration;

/// Says why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseDurationError {
    #[error("it is not a number with a unit, like 30s, 2m or 1m30s")]
    Malformed,
    #[error("it has no unit; write it like 30s or 2m")]
    NoUnit,
    #[error("its unit is none of ns, us, ms, s, m, h")]
    UnknownUnit,
    #[error("it is too long")]
    TooLong,
}

/// Nanoseconds of each unit.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration that is not negative: numbers, each with a unit, or a plain `0`.
pub(super) fn parse(text: &str) -> Result<Duration, ParseDurationError> {
    use ParseDurationError::{Malformed, NoUnit, TooLong, UnknownUnit};
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(Malformed);
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(Malformed);
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if unit.is_empty() {
            return Err(NoUnit);
        }
        let &(_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(UnknownUnit)?;
        // 18 digits of a number fit and are a longer time than any allowed one.
        if whole.len() > 18 {
            return Err(TooLong);
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| Malformed)? };
        nanos += whole * size + fraction_of(fraction, size);
        rest = after;
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| TooLong)
}

/// Splits the digits off the begin.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Returns `0.fraction` of `size`, cut to whole nanoseconds.
fn fraction_of(fraction: &str, size: u128) -> u128 {
    let mut value = 0;
    let mut scale: u128 = 1;
    // 15 digits are below a nanosecond even of hours.
    for digit in fraction.bytes().take(15) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    value * size / scale
}

/// Writes a duration the way Go does: `1m30s`, `500ms`, `0s`.
pub(super) fn write(duration: Duration) -> String {
    let total = duration.as_secs();
    if total == 0 && duration.subsec_nanos() != 0 {
        return format!("{}ms", duration.as_secs_f64() * 1000.0);
    }
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    let nanos = format!("{:09}", duration.subsec_nanos());
    let fraction = nanos.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{point}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{point}{fraction}s"),
        (_, _) => format!("{hours}h{minutes}m{seconds}{point}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_of_go_are_read() {
        for (text, millis) in [
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("1m0s", 60_000),
            (".5s", 500),
            ("5.s", 5_000),
            ("300ms", 300),
            ("1000\u{b5}s", 1),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        use ParseDurationError::{Malformed, NoUnit, TooLong, UnknownUnit};
        for (text, error) in [
            ("", Malformed),
            ("s", Malformed),
            (".s", Malformed),
            ("-1s", Malformed),
            ("+1s", Malformed),
            ("30", NoUnit),
            ("1m30", NoUnit),
            ("1d", UnknownUnit),
            ("1 s", UnknownUnit),
            ("30s ", UnknownUnit),
            ("99999999999999999999h", TooLong),
            ("999999999999999999h", TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (millis, text) in
            [(0, "0s"), (500, "500ms"), (1500, "1.5s"), (90_000, "1m30s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(write(Duration::from_millis(millis)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 0u64..100_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&write(duration)).unwrap(), duration);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9.smhnu\u{b5} -]{0,30}|\\PC{0,20}") {
            let _unused = parse(&text);
        }
    }
}
