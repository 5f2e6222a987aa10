//! Sizes of files for people, and back: powers of 1024, as IEC 80000-13 names them.

/// Says why a text is not a size of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseSizeError {
    #[error("write bytes as a whole number, or a number with `k`, `m` or `g`: 65536, 512k, 5m")]
    Malformed,
}

/// The units above the byte, each 1024 of the one before.
const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Returns a size with one digit after the point while that matters: `0B`, `1.5KiB`, `512MiB`, `16.0EiB`.
pub(crate) fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut unit: u128 = 1;
    let mut name = "";
    // In tenths, rounded; 1023.96 KiB is 1.0 MiB.
    let mut tenths = 0;
    for next in UNITS {
        unit *= 1024;
        name = next;
        tenths = (u128::from(bytes) * 10 + unit / 2) / unit;
        if tenths < 10_240 {
            break;
        }
    }
    if tenths < 1000 {
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    } else {
        format!("{}{name}", (tenths + 5) / 10)
    }
}

/// Reads a size: `1048576` is bytes; `k`, `m` and `g` are powers of 1024, and so are `kb` and `kib`.
pub(crate) fn parse(text: &str) -> Result<u64, ParseSizeError> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(ParseSizeError::Malformed),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseSizeError::Malformed);
    }
    // What does not fit is too much for whoever asks.
    Ok(digits.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1 << shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (102_348, "99.9KiB"),
            (102_400, "100KiB"),
            (1_048_575, "1.0MiB"),
            (536_870_912, "512MiB"),
            (5_368_709_120, "5.0GiB"),
            (u64::MAX, "16.0EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn sizes_are_bytes_unless_a_unit_says_otherwise() {
        for (text, bytes) in [("0", 0), ("7", 7), ("7b", 7), ("2k", 2048), ("5MiB", 5 << 20), ("1G", 1 << 30)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse("99999999999999999999g"), Ok(u64::MAX));
        for text in ["", "m", "-1", "1.5m", "5 m", "5mm", "5t", "ü"] {
            assert_eq!(parse(text), Err(ParseSizeError::Malformed), "{text:?}");
        }
    }
}
