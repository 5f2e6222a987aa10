//! Durations as Go's `time.ParseDuration` reads and `time.Duration.String` writes them: `72h0m0s`, `1.5s`, `100ms`.
//!
//! The configuration and the API of Shed have always used this form, so it is read to the letter: what Go accepts is
//! accepted with the same value, what Go refuses is refused. It knows no clock and no limits but those of 64 bits;
//! ranges are its callers'.

use std::{fmt, str::FromStr, time::Duration};

/// A span of time in nanoseconds, which may be negative; about 292 years either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

/// Says why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseGoDurationError {
    #[error("it is not a number with a unit, like 30s, 2m or 1m30s")]
    Malformed,
    #[error("it has no unit; write it like 30s or 2m")]
    NoUnit,
    #[error("its unit is none of ns, us, ms, s, m, h")]
    UnknownUnit,
    #[error("it is too long")]
    TooLong,
}

/// 2^63, the magnitude of the longest negative duration; Go bounds every step by it.
const LIMIT: u64 = 1 << 63;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of each unit. Of micro there are two letters, U+00B5 and U+03BC, that look the same.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", MICROSECOND),
    ("\u{b5}s", MICROSECOND),
    ("\u{3bc}s", MICROSECOND),
    ("ms", MILLISECOND),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

impl GoDuration {
    /// Makes one of so many nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Makes one of a duration; one that is too long becomes the longest.
    #[must_use]
    pub fn saturating_from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Returns the nanoseconds.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Returns the duration, unless it is negative.
    #[must_use]
    pub fn to_duration(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl FromStr for GoDuration {
    type Err = ParseGoDurationError;

    /// Reads `[-+]?([0-9]*(\.[0-9]*)?unit)+`, or a zero without a unit.
    fn from_str(text: &str) -> Result<Self, ParseGoDurationError> {
        use ParseGoDurationError::{Malformed, TooLong};
        let (negative, mut rest) = match (text.strip_prefix('-'), text.strip_prefix('+')) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(Malformed);
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (term, after) = term(rest)?;
            total = total.checked_add(term).filter(|sum| *sum <= LIMIT).ok_or(TooLong)?;
            rest = after;
        }
        if negative {
            // The one magnitude that no positive number has is its own negation.
            return Ok(Self(i64::try_from(total).map_or(i64::MIN, i64::wrapping_neg)));
        }
        i64::try_from(total).map(Self).map_err(|_| TooLong)
    }
}

/// Reads a number and its unit; returns its nanoseconds and what follows.
fn term(text: &str) -> Result<(u64, &str), ParseGoDurationError> {
    use ParseGoDurationError::{Malformed, NoUnit, TooLong, UnknownUnit};
    let (whole, after) = digits(text);
    let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(Malformed);
    }
    let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
    let (unit, after) = after.split_at(unit_end);
    // Go looks at the number before the unit.
    let number: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| TooLong)? };
    if unit.is_empty() {
        return Err(NoUnit);
    }
    let &(_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(UnknownUnit)?;
    let nanos = number.checked_mul(size).and_then(|nanos| nanos.checked_add(fraction_of(fraction, size)));
    nanos.filter(|nanos| *nanos <= LIMIT).map(|nanos| (nanos, after)).ok_or(TooLong)
}

/// Splits the digits off the beginning.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Returns `0.fraction` of a unit in whole nanoseconds, rounded as Go does: in floating point, and digits beyond those
/// that fit in 63 bits do not count.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the same steps in the same types as Go's, so that the last nanosecond is the same"
)]
fn fraction_of(fraction: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale: f64 = 1.0;
    for digit in fraction.bytes() {
        if value > (LIMIT - 1) / 10 {
            break;
        }
        let next = value * 10 + u64::from(digit - b'0');
        if next > LIMIT {
            break;
        }
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let text = match nanos {
            0 => "0s".to_owned(),
            1..MICROSECOND => format!("{sign}{nanos}ns"),
            MICROSECOND..MILLISECOND => format!("{sign}{}\u{b5}s", decimal(nanos, MICROSECOND)),
            MILLISECOND..SECOND => format!("{sign}{}ms", decimal(nanos, MILLISECOND)),
            SECOND.. => {
                let minutes = nanos / (60 * SECOND);
                let seconds = decimal(nanos % (60 * SECOND), SECOND);
                match (minutes / 60, minutes % 60) {
                    (0, 0) => format!("{sign}{seconds}s"),
                    (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                    (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
                }
            }
        };
        f.pad(&text)
    }
}

/// Writes `value` in units of `unit`, a power of ten, without zeros at the end of the fraction.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    let width = unit.ilog10() as usize;
    let text = format!("{whole}.{fraction:0width$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> Result<i64, ParseGoDurationError> {
        text.parse().map(GoDuration::nanos)
    }

    const S: i64 = 1_000_000_000;
    const H: i64 = 3600 * S;

    /// The table of Go's own tests (src/time/time_test.go, parseDurationTests).
    #[test]
    fn what_go_reads_is_read_with_the_same_value() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("5s", 5 * S),
            ("30s", 30 * S),
            ("1478s", 1478 * S),
            ("-5s", -5 * S),
            ("+5s", 5 * S),
            ("5.0s", 5 * S),
            ("5.6s", 5_600_000_000),
            ("5.s", 5 * S),
            (".5s", S / 2),
            ("1.0s", S),
            ("1.004s", 1_004_000_000),
            ("1.0040s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("13ms", 13_000_000),
            ("14s", 14 * S),
            ("15m", 15 * 60 * S),
            ("16h", 16 * H),
            ("3h30m", 3 * H + 1800 * S),
            ("10.5s4m", 250_500_000_000),
            ("-2m3.4s", -123_400_000_000),
            ("1h2m3s4ms5us6ns", H + 123 * S + 4_005_006),
            ("39h9m14.425s", 39 * H + 9 * 60 * S + 14_425_000_000),
            ("52763797000ns", 52_763_797_000),
            ("0.3333333333333333333h", 1200 * S),
            ("9007199254740993ns", (1 << 53) + 1),
            ("9223372036854775807ns", i64::MAX),
            ("9223372036854775.807us", i64::MAX),
            ("9223372036s854ms775us807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("-9223372036854775.808us", i64::MIN),
            ("-9223372036s854ms775us808ns", i64::MIN),
            ("0.100000000000000000000h", 360 * S),
            ("0.830103483285477580700h", 49 * 60 * S + 48 * S + 372_539_827),
        ] {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        use ParseGoDurationError::{Malformed, NoUnit, TooLong, UnknownUnit};
        for (text, error) in [
            ("", Malformed),
            ("3", NoUnit),
            ("-", Malformed),
            ("+", Malformed),
            ("+-1s", Malformed),
            ("s", Malformed),
            (".", Malformed),
            ("-.", Malformed),
            (".s", Malformed),
            ("+.s", Malformed),
            ("1d", UnknownUnit),
            ("1 s", UnknownUnit),
            (" 1s", Malformed),
            ("1s ", UnknownUnit),
            ("1S", UnknownUnit),
            ("1m30", NoUnit),
            ("1s\0", UnknownUnit),
            ("\u{661}s", Malformed),
            ("\u{85}\u{85}", Malformed),
            ("\u{ffff}", Malformed),
            ("9223372036854775810ns", TooLong),
            ("9223372036854775808ns", TooLong),
            ("-9223372036854775809ns", TooLong),
            ("9223372036854776us", TooLong),
            ("3000000h", TooLong),
            ("9223372036854775.808us", TooLong),
            ("9223372036854ms775us808ns", TooLong),
            ("99999999999999999999999999h", TooLong),
        ] {
            assert_eq!(nanos(text), Err(error), "{text:?}");
        }
    }

    /// The table of Go's own tests (durationTests), and a few more.
    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (100, "100ns"),
            (1_000, "1\u{b5}s"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (3_300_000_000, "3.3s"),
            (60 * S, "1m0s"),
            (245 * S, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (72 * H, "72h0m0s"),
            (-5 * S, "-5s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration::from_nanos(nanos).to_string(), text);
        }
    }

    #[test]
    fn only_what_is_not_negative_is_a_duration() {
        assert_eq!(GoDuration::from_nanos(-1).to_duration(), None);
        assert_eq!(GoDuration::from_nanos(7).to_duration(), Some(Duration::from_nanos(7)));
        assert_eq!(GoDuration::saturating_from(Duration::MAX).nanos(), i64::MAX);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in prop_oneof![any::<i64>(), -2_000_000_000_i64..2_000_000_000]) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[-+]?([0-9.]{0,25}[smhnu\u{b5}\u{3bc} -]{0,2}){0,4}|\\PC{0,20}") {
            let _any = text.parse::<GoDuration>();
        }

        #[test]
        fn a_sign_negates(text in "([0-9]{1,4}(ns|us|ms|s|m|h)){1,6}") {
            let positive = nanos(&text)?;
            prop_assert_eq!(nanos(&format!("+{text}"))?, positive);
            prop_assert_eq!(nanos(&format!("-{text}"))?, -positive);
        }
    }
}
